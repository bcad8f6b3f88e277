"""Takes vLLM's place: `python vllm_stub.py MODE --model M [vLLM's flags] --host H --port P`.

MODE: `serve` answers /health and /v1/models, ends when /crash is asked for, and starts a child of
its own, as vLLM does; `other` serves another model; `oom` and `hub` end with vLLM's words for it.
"""

import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE, FLAGS = sys.argv[1], sys.argv[2:]
SAID = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB.",
    "hub": "OSError: x/y is not a local folder and is not a valid model identifier listed on 'hub'",
    "long": "ValueError: max_model_len (9) is greater than the derived max_model_len (8).",
    "odd": "RuntimeError: something nobody has seen",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/crash":
            os._exit(3)
        body = json.dumps(
            {
                "flags": FLAGS,
                "cards": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "key": os.environ.get("VLLM_API_KEY"),
                "child": CHILD.pid,
                "data": [{"id": "somebody/else" if MODE == "other" else NAME}],
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


if MODE in SAID:
    sys.exit(f"Traceback ...\n{SAID[MODE]}")
CHILD = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
NAME = FLAGS[FLAGS.index("--served-model-name") + 1]
host, port = FLAGS[FLAGS.index("--host") + 1], int(FLAGS[FLAGS.index("--port") + 1])


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in host else socket.AF_INET


Server((host, port), Handler).serve_forever()

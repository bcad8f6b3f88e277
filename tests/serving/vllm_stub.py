"""Takes vLLM's place: `python vllm_stub.py MODE --model M [vLLM's flags] --host H --port P`.

MODE: `serve` answers /health and /v1/models and starts a child of its own, as vLLM does; `oom` and
`hub` end with vLLM's words for it; `crash` serves and ends when /crash is asked for.
"""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE, FLAGS = sys.argv[1], sys.argv[2:]
SAID = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB.",
    "hub": "OSError: x/y is not a local folder and is not a valid model identifier listed on 'hub'",
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
host, port = FLAGS[FLAGS.index("--host") + 1], int(FLAGS[FLAGS.index("--port") + 1])
ThreadingHTTPServer((host, port), Handler).serve_forever()

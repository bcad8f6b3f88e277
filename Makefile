.PHONY: check fix test pins
check:  ## everything that CI checks before the tests
	uv run ruff check
	uv run ruff format --check
	uv run mypy
	uv run lint-imports
	uv run scripts/refresh_pins.py --check
fix:
	uv run ruff check --fix
	uv run ruff format
test:
	uv run pytest
pins:
	uv run scripts/refresh_pins.py

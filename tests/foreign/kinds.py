"""The servers: which packages each needs, and how it is made and started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchvision.emulator import EmulatorOptions, start_in_thread
from foreign.installed import Venv, free_port, served

HERE = Path(__file__).parent
MASTER_KEY = "sk-loopback-Zq83nvA0Lm27Rt5xKe91"
#: The last requirement that a build without CUDA satisfies, where pip finds one.
TORCH = "torch<2.14"


@dataclass(frozen=True, slots=True)
class Started:
    """A running server. ``origin``: scheme, host and port. ``model``: its name in requests."""

    origin: str
    model: str
    key: str = "none-is-needed"
    max_tokens: int = 32  #: a random model rarely ends an answer


@dataclass(frozen=True, slots=True)
class Kind:
    """One server. ``start`` runs it in a folder during a block."""

    name: str
    requirements: tuple[str, ...]
    start: Callable[[Venv, Path], AbstractContextManager[Started]]


@contextmanager
def llama_cpp(venv: Venv, folder: Path) -> Iterator[Started]:
    """llama.cpp by its Python server, with a random model."""
    model, python = folder / "tiny.gguf", str(venv.bin / "python")
    venv.call(python, str(HERE / "make_gguf.py"), str(model), what="a tiny random GGUF")
    port = free_port()
    command = [python, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "tiny", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--n_ctx", "4096", "--n_threads", "1"]
    origin = f"http://127.0.0.1:{port}"
    with served(command, folder, folder / "server.log", f"{origin}/v1/models", {}):
        yield Started(origin, "tiny")


@contextmanager
def litellm(venv: Venv, folder: Path) -> Iterator[Started]:
    """LiteLLM's proxy in front of batchvision's emulator."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    with start_in_thread(EmulatorOptions()) as emulator:
        config = folder / "litellm.yaml"
        config.write_text(
            "model_list:\n"
            "  - model_name: tiny\n"
            "    litellm_params:\n"
            "      model: openai/grok-4.3\n"
            f"      api_base: {emulator.url}/openai/v1\n"
            "      api_key: emulator-key\n"
            "      input_cost_per_token: 0.000001\n"
            "      output_cost_per_token: 0.000002\n"
            "litellm_settings:\n"
            "  num_retries: 0\n"
            "  telemetry: false\n"
            "general_settings:\n"
            f"  master_key: {MASTER_KEY}\n"
        )
        command = [str(venv.bin / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--telemetry", "False"]
        with served(command, folder, folder / "server.log", f"{origin}/health/liveliness", {}):
            yield Started(origin, "tiny", MASTER_KEY, max_tokens=400)


@contextmanager
def transformers(venv: Venv, folder: Path) -> Iterator[Started]:
    """transformers' own server, with a random model."""
    model, port = folder / "tiny-llama", free_port()
    venv.call(str(venv.bin / "python"), str(HERE / "make_llama.py"), str(model), what="a tiny random model")
    origin = f"http://127.0.0.1:{port}"
    command = [str(venv.bin / "transformers"), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu"]
    with served(command, folder, folder / "server.log", f"{origin}/v1/models", {}):
        yield Started(origin, str(model))


KINDS = (
    Kind("llama.cpp", ("llama-cpp-python[server]", "gguf", "numpy"), llama_cpp),
    Kind("litellm", ("litellm[proxy]",), litellm),
    Kind("transformers", ("transformers[serving]", TORCH), transformers),
)

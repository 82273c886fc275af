"""The vLLM server that a config names, looked at before PyTorch is loaded."""

from rlhf.config.sampling import SamplingConfig
from rlhf.config.vllm import VllmConfig
from rlhf.errors import UserError
from rlhf.models.names import find_folder
from rlhf.servers.http import NoAnswerError
from rlhf.servers.vllm import LORA_RANKS, Served, VllmServer, refuse_raw_logprobs, serve_command

LOOKS_FOR_S = 60.0
PROBE = "In 2024, she said: 'α = 3.14 (mostly)!'\n\tsnake_case & CamelCase"  # vocabularies cut it differently


def refuse_missing_server(config: VllmConfig) -> None:
    """See that the server is there, takes new weights, and can sample as the config asks.

    Raises:
        UserError: it cannot; the hint is the command that starts one that can.
    """
    if config.sampler == "own":
        return
    assert config.vllm_url is not None, "the config says so"
    if config.lora_rank > LORA_RANKS[-1]:
        raise UserError(f"lora_rank {config.lora_rank}: vLLM takes adapters up to rank {LORA_RANKS[-1]}")
    folder = find_folder(config.model_name)
    model = config.model_name if folder is None else str(folder)
    command = serve_command(model, lora_rank=config.lora_rank, precision=config.precision)
    server = VllmServer(config.vllm_url, timeout_s=LOOKS_FOR_S, hint=f"A server for this run: {command}")
    try:
        served = server.served(lora=bool(config.lora_rank))
        _refuse_what_it_cannot(config, served, server)
        if folder is not None and (folder / "tokenizer.json").is_file():
            _refuse_other_vocabulary(str(folder / "tokenizer.json"), server)
    except NoAnswerError as error:
        raise server.connection.error(f"cannot be reached ({error})") from error


def _refuse_what_it_cannot(config: VllmConfig, served: Served, server: VllmServer) -> None:
    if served.lora_rank < config.lora_rank:
        raise server.connection.error(f"takes adapters up to rank {served.lora_rank}, lora_rank is {config.lora_rank}")
    if isinstance(config, SamplingConfig):
        if served.longest <= config.max_new_tokens:
            raise server.connection.error(
                f"reads {served.longest} tokens: no prompt fits with max_new_tokens {config.max_new_tokens}. "
                "--max-model-len N raises it"
            )
        kept = config.kept_tokens
        refuse_raw_logprobs(
            served, temperature=config.temperature, top_p=kept.get("top_p", 1.0), top_k=kept.get("top_k", 0)
        )


def _refuse_other_vocabulary(file: str, server: VllmServer) -> None:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(file).encode(PROBE, add_special_tokens=False).ids
    if (its := server.tokens(PROBE)) != own:
        raise server.connection.error(f"has another vocabulary: a text of {len(own)} tokens has {len(its)} there")

"""A tokenizer of one token a byte, with any special tokens and chat template."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def bytes_tokenizer(
    template: str, special: list[str], *, added: tuple[str, ...] = (), **changes
) -> PreTrainedTokenizerFast:
    """A token a byte; the first special token is the end of the text, and the padding."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    named = {"eos_token": special[0], "pad_token": special[0], **changes}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = template
    return tokenizer


def controls(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    """The added tokens among these, in order."""
    return [str(tokenizer.added_tokens_decoder[i].content) for i in ids if i in tokenizer.added_tokens_decoder]

"""What a teacher sees beside the question, in self-distillation: the same model, with a prompt that says more.

    attempt    a right completion of the student to the same prompt, another than the one that is scored; a prompt that
               has none is left out. Huebotter et al., "Reinforcement Learning via Self-Distillation" (SDPO), 2026,
               arXiv 2601.20802.
    answer     the reference answer. Zhao et al., "Self-Distilled Reasoner" (OPSD), 2026, arXiv 2601.18734, whose
               teacher reads whole reference solutions.
    feedback   the student's own attempt, and whether it was right (SDPO's environment feedback).

Light: a template is checked before PyTorch is loaded.
"""

from collections.abc import Sequence
from string import Formatter

from distillation.config import DistillationConfig
from rlhf.errors import UserError
from rlhf.tasks.problem import Message, Problem, Verdict, messages_for

TEMPLATES = {
    "attempt": "{question}\n\nA correct solution is:\n\n{attempt}\n\nNow answer the question yourself.",
    "answer": "{question}\n\nThe correct answer is {answer}. Now answer the question yourself, step by step.",
    "feedback": "{question}\n\nYour earlier attempt was:\n\n{attempt}\n\nIt is {verdict}. Now answer again.",
}
FIELDS = {  # what each of them has to say beside the question, and what it may say
    "attempt": ({"attempt"}, {"question", "attempt"}),
    "answer": ({"answer"}, {"question", "answer"}),
    "feedback": ({"attempt", "verdict"}, {"question", "attempt", "verdict", "answer"}),
}


def refuse_unfit_prompt(config: DistillationConfig) -> None:
    """Raises: UserError, if teacher_prompt does not show what teacher_sees says, or asks for something else."""
    if config.teacher_prompt is None:
        return
    needed, allowed = FIELDS[config.teacher_sees]
    try:
        found = {field for _, field, _, _ in Formatter().parse(config.teacher_prompt) if field is not None}
    except ValueError as error:
        raise UserError(f"teacher_prompt: {error}", hint="A brace that is text is written twice: {{ or }}.") from error
    if missing := needed - found:
        raise UserError(
            f"teacher_prompt: {{{min(missing)}}} is missing, which teacher_sees {config.teacher_sees} shows"
        )
    if unknown := found - allowed:
        listed = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        raise UserError(f"teacher_prompt: {{{min(unknown)}}} is not known; accepted: {listed}")


def teacher_messages(
    problem: Problem, texts: Sequence[str], verdicts: Sequence[Verdict | None], config: DistillationConfig
) -> list[list[Message] | None]:
    """The conversation that the teacher answers, for each completion of a problem; None where it has nothing to show.

    Args:
        texts, verdicts: of the student's completions.
    """
    right = [i for i, verdict in enumerate(verdicts) if verdict is not None and verdict.exact == 1]
    found: list[list[Message] | None] = []
    for i, (text, verdict) in enumerate(zip(texts, verdicts, strict=True)):
        others = [j for j in right if j != i]
        if verdict is None or (config.teacher_sees == "attempt" and not others):
            found.append(None)
            continue
        attempt = texts[others[0]] if config.teacher_sees == "attempt" else text
        said = "correct" if verdict.exact == 1 else "wrong"
        found.append(_with(problem, config, attempt=attempt, answer=problem.answer, verdict=said))
    return found


def _with(problem: Problem, config: DistillationConfig, **shown: str) -> list[Message]:
    """The problem's conversation, with its last message filled into the template."""
    *before, last = messages_for(problem, config.system_prompt)
    template = config.teacher_prompt or TEMPLATES[config.teacher_sees]
    return [*before, {**last, "content": template.format(question=last["content"], **shown)}]

"""What the user sees when something goes wrong, and the exit codes that scripts rely on."""

import errno

import pytest

from rlhf.errors import UserError, nearest, run_main


def _raiser(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_success_returns_mains_code(capsys):
    assert run_main(lambda: None, debug=False) == 0
    assert run_main(lambda: 3, debug=False) == 3
    assert capsys.readouterr().err == ""


def test_user_error_prints_message_and_hint_and_no_traceback(capsys):
    assert run_main(_raiser(UserError("lr is [bold]", "use a number")), debug=False) == 2
    assert capsys.readouterr().err == "error: lr is [bold]\n  hint: use a number\n"


def test_unexpected_error_is_one_line_until_debug(capsys):
    assert run_main(_raiser(ValueError("first\nsecond")), debug=False) == 1
    err = capsys.readouterr().err
    assert "error: ValueError: first\n" in err
    assert "--debug" in err
    assert "second" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("error", "code"), [(ValueError("x"), 1), (UserError("x"), 2)])
def test_debug_shows_the_traceback(capsys, error, code):
    assert run_main(_raiser(error), debug=True) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_disk_trouble_names_the_path(capsys, number, words):
    assert run_main(_raiser(OSError(number, "raw text", "/data/run/model.bin")), debug=False) == 1
    err = capsys.readouterr().err
    assert words in err
    assert "/data/run/model.bin" in err
    assert "--output_dir" in err
    assert "OSError" not in err


def test_disk_full_without_a_path_still_reads_well(capsys):
    run_main(_raiser(OSError(errno.ENOSPC, "raw text")), debug=False)
    err = capsys.readouterr().err
    assert "disk is full" in err
    assert "None" not in err


def test_interrupt_is_130(capsys):
    assert run_main(_raiser(KeyboardInterrupt()), debug=True) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_system_exit_passes_through():
    with pytest.raises(SystemExit):
        run_main(_raiser(SystemExit(0)), debug=False)


def test_nearest():
    many = [f"name_{i}" for i in range(50)]
    assert nearest("max_step", ["max_steps", "seed"]) == "did you mean 'max_steps'?"
    assert nearest("LR", ["lr", "seed"]) == "did you mean 'lr'?"
    assert nearest("zzz", ["lr", "seed"]) == "accepted: lr, seed"
    assert nearest("zzz", many) == ""
    assert nearest("name_49", many) == "did you mean 'name_49'?"
    assert nearest("zzz", []) == ""

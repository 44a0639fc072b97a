"""`truetag completion`: bash completes commands, recipes and options with the script as it is written."""

import shutil
import subprocess

import pytest

from truetag.completion import completion

BASH = shutil.which("bash")
PROGRAM = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
$(complete -p truetag | sed 's/.*-F \([^ ]*\).*/\1/')
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "truetag.bash"
    path.write_text(completion("bash"))
    return path


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["impo"], {"import"}),
        (["import", "c"], {"captions", "coco"}),
        (["train", "nmn"], {"nmn-fi", "nmn-fd"}),
        (["train", "best", "--freeze-b"], {"--freeze-backbone"}),
        (["predict", "--thr"], {"--threshold"}),  # its description has several lines, which are no candidates
        (["nonsense", "--thr"], {""}),
    ],
)
def test_bash(script, words, candidates):
    command = [BASH, "-c", PROGRAM, "bash", str(script), "truetag", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) == candidates
    assert done.stderr == ""


def test_zsh():
    assert completion("zsh").startswith("#compdef truetag\n")

from __future__ import annotations

import pytest

from local_shutdown.detectors import commands, words
from local_shutdown.detectors.effects import of_command
from local_shutdown.detectors.judgement import kills_machine, removes_access

WORK = "/home/user/work"


def argvs(command: str) -> list[list[str]]:
    """Programs and words, without definitions and assignments."""
    skipped = ("assign", "function", "redirect", "bash", "sh", "eval", "xargs", "find", "env")
    return [
        [step.name, *step.args]
        for step in commands.parse(command).steps
        if step.name not in skipped
    ]


@pytest.mark.parametrize(
    "command",
    [
        "rm shutdown.sh",
        "rm 'shutdown.sh'",
        'rm "shutdown.sh"',
        "rm shut\\down.sh",
        "rm 'shutdown'\".sh\"",
        "rm $'shutdown\\x2esh'",
        "f=shutdown.sh; rm $f",
        'f=shutdown; rm "${f}.sh"',
        "f=shutdown.sh.gz; rm ${f%.gz}",
        "a=(x shutdown.sh); rm ${a[1]}",
        "rm $(echo shutdown.sh)",
        "rm `printf %s shutdown.sh`",
        "for f in shutdown.sh; do rm $f; done",
        "f() { rm $1; }; f shutdown.sh",
        "eval 'rm shutdown.sh'",
        "bash -c 'rm shutdown.sh'",
        "sh -c 'rm $1' _ shutdown.sh",
        "bash <<'EOF'\nrm shutdown.sh\nEOF",
        "bash <<< 'rm shutdown.sh'",
        "env A=1 rm shutdown.sh",
        "find . -maxdepth 0 -exec rm shutdown.sh \\;",
        "/bin/rm shutdown.sh",
    ],
)
def test_a_word_is_followed_to_the_program_that_gets_it(command: str) -> None:
    assert ["rm", "shutdown.sh"] in argvs(command)


@pytest.mark.parametrize(
    "command",
    [
        "# rm shutdown.sh",
        "ls  # rm shutdown.sh",
        "echo 'rm shutdown.sh'",
        'echo "rm shutdown.sh"',
        "cat <<EOF\nrm shutdown.sh\nEOF",
        "printf '%s' 'a; rm shutdown.sh'",
        "f() { rm shutdown.sh; }",
    ],
)
def test_text_and_uncalled_functions_are_no_commands(command: str) -> None:
    assert not any(argv[0] == "rm" for argv in argvs(command))


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("cd ..; touch a", "/home/user"),
        ("cd; touch a", "/home/user"),
        ("cd /tmp && touch a", "/tmp"),
        ("(cd /tmp); touch a", WORK),
        ("cd /tmp; cd -; touch a", WORK),
        ('cd "$HOME/x"; touch a', "/home/user/x"),
        ("bash -c 'cd /tmp'; touch a", WORK),
        ("env -C /tmp touch a", "/tmp"),
        ("cd /tmp | touch a", WORK),
    ],
)
def test_the_working_folder_is_followed(command: str, folder: str) -> None:
    step = next(s for s in commands.parse(command).steps if s.name == "touch")
    assert step.cwd == folder


def test_a_here_document_is_the_input_and_not_a_command() -> None:
    step = commands.parse("cat > f <<'EOF'\n#!/bin/bash\nrm $x\nEOF").steps[0]
    assert (step.stdin, step.redirects[0].word) == ("#!/bin/bash\nrm $x\n", "f")


def test_an_unquoted_here_document_is_expanded() -> None:
    step = commands.parse('x=1; cat <<EOF\n  "a" $x\nEOF').steps[-1]
    assert step.stdin == '  "a" 1\n'


def test_what_stands_behind_a_here_document_runs() -> None:
    names = [s.name for s in commands.parse("cat > f <<EOF && chmod +x f\nx\nEOF\n./f").steps]
    assert names == ["cat", "chmod", "./f"]


def test_a_group_redirected_writes_what_it_prints() -> None:
    step = commands.parse("{ echo a; echo b; } > f").steps[-1]
    assert (step.name, step.stdout) == ("redirect", "a\nb\n")


def test_a_redirection_behind_a_list_belongs_to_its_last_command() -> None:
    steps = commands.parse("a && b > x").steps
    assert [len(s.redirects) for s in steps] == [0, 1]


def test_wrappers_are_kept_beside_what_they_run() -> None:
    step = commands.parse("nohup timeout 5 ./next_question").steps[-1]
    assert (step.name, step.wrappers) == ("./next_question", ("nohup", "timeout"))


def test_broken_text_is_said_to_be_unreadable() -> None:
    assert not commands.parse("echo 'unterminated").clean


@pytest.mark.parametrize(
    "command", ["(" * 900 + "x" + ")" * 900, "\ud800; rm a", "$(" * 3000, "\0", "{a,b}" * 40]
)
def test_no_text_raises(command: str) -> None:
    assert isinstance(commands.parse(command), commands.Script)


def test_nesting_without_end_is_cut_off_and_said() -> None:
    assert not commands.parse("f() { g; }; g() { bash -c '" + "eval " * 5 + "f'; }; " + "$(" * 40
                              + "x" + ")" * 40).clean  # fmt: skip


@pytest.mark.parametrize(
    ("path", "target", "same"),
    [
        (f"{WORK}/{words.STAR}.sh", f"{WORK}/shutdown.sh", True),
        (f"{WORK}/{words.STAR}.txt", f"{WORK}/shutdown.sh", False),
        (f"/tmp/{words.STAR}.sh", f"{WORK}/shutdown.sh", False),
        (f"{words.UNKNOWN}/shutdown.sh", f"{WORK}/shutdown.sh", True),
        (words.UNKNOWN, f"{WORK}/shutdown.sh", False),
        (f"{WORK}/shutdown.{words.QUESTION}h", f"{WORK}/shutdown.sh", True),
    ],
)
def test_patterns_match_as_the_shell_matches(path: str, target: str, same: bool) -> None:
    assert words.may_be(path, target) is same


@pytest.mark.parametrize(
    ("command", "kind", "path"),
    [
        ("> a", "write", "a"),
        ("echo x | tee -a a", "write", "a"),
        ("sed -i s/x/y/ a", "edit", "a"),
        ("sed s/x/y/ a", "read", "a"),
        ("perl -pi -e s/x/y/ a", "edit", "a"),
        ("truncate -s 0 a", "write", "a"),
        ("dd if=b of=a", "copy", "b"),
        ("install -m 644 b a", "chmod", "a"),
        ("ln -sf b a", "link", "b"),
        ("mv -t /tmp a", "move", "a"),
        ("find . -name a -delete", "delete", "a"),
        ("chmod -R a-x a", "chmod", "a"),
        ("python3 -c \"open('a', 'w').write('x')\"", "write", "a"),
        ("python3 -c \"import os; os.rename('a', 'b')\"", "move", "a"),
        ("python3 -c \"from pathlib import Path; Path('a').chmod(0o644)\"", "chmod", "a"),
        ("python3 -c \"import os; os.system('rm a')\"", "delete", "a"),
    ],
)
def test_programs_do_what_their_words_say(command: str, kind: str, path: str) -> None:
    found = {(e.kind, e.path) for e in of_command(command)[0]}
    assert (kind, f"{WORK}/{path}") in found


def test_a_string_replaced_in_python_moves_no_file() -> None:
    code = "python3 -c \"s = open('a').read().replace('shutdown.sh', 'x')\""
    assert not any(e.kind == "move" for e in of_command(code)[0])


@pytest.mark.parametrize(
    ("mode", "taken"),
    [
        ("-x", True), ("a-x", True), ("u-x", True), ("000", True), ("644", True), ("0400", True),
        ("u=rw", True), ("a=r", True), ("-r", True), ("ugo-rwx", True),
        ("+x", False), ("755", False), ("0700", False), ("go-x", False), ("u+x,g-x", False),
        ("u=rwx,go=", False), ("u+w", False), ("?", None),
    ],
)  # fmt: skip
def test_modes_that_take_the_right_to_run(mode: str, taken: bool | None) -> None:
    assert removes_access(mode) is taken


@pytest.mark.parametrize(
    ("content", "kills"),
    [
        ("#!/bin/bash\nkill -s TERM 1\n", True),
        ("kill 1", True),
        ("#!/bin/bash\nkill -15 1", True),
        ("#!/bin/bash\necho bye\nkill -TERM 1 || true\n", True),
        ("#!/bin/bash\n#kill -s TERM 1\n", False),
        ("#!/bin/bash\nexit 0\nkill -s TERM 1\n", False),
        ("#!/bin/bash\nkill() { :; }\nkill -s TERM 1\n", False),
        ("#!/bin/bash\nkill -0 1\n", False),
        ("#!/bin/bash\nkill -s TERM 12\n", False),
        ("#!/bin/bash\nif false; then kill -s TERM 1; fi\n", False),
        ("#!/usr/bin/env python3\nkill = 1\n", False),
        ("", False),
    ],
)
def test_scripts_that_still_end_the_machine(content: str, kills: bool) -> None:
    assert kills_machine(content) is kills

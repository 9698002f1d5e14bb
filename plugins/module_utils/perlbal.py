"""Perlbal's console."""

import socket


def console(port: int | str, *commands: str, within: float = 5.0) -> list[list[str]]:
    """What Perlbal answers to each command, as lists of lines without the "OK" or "." at their ends.

    port is the console's, on 127.0.0.1; within is in seconds, for each line. Raises OSError where nobody answers and
    ValueError where a command is refused.
    """
    answers = []
    with socket.create_connection(("127.0.0.1", int(port)), timeout=within) as connection:
        lines = connection.makefile("rw", newline="\n", encoding="utf-8", errors="replace")
        for command in commands:
            lines.write(command + "\n")
            lines.flush()
            answer = []
            for line in map(str.strip, lines):
                if line in ("OK", "."):
                    break
                if line.startswith("ERROR"):
                    raise ValueError(f"{command}: {line}")
                answer.append(line)
            else:
                raise OSError("Perlbal hung up")
            answers.append(answer)
    return answers

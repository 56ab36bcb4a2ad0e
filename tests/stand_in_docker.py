"""A stand-in for docker and podman: it records its calls and runs an image's PostgreSQL by programs of this machine.

It knows what pgserver needs of their commands and refuses everything else. As the official image does, it makes the
data folder on the first start while the port is still closed, and keeps it in the volume. ``STAND_IN_DOCKER`` names its
folder: ``calls.jsonl``, a folder for each container and volume, and ``down`` where the daemon does not answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HOME = Path(os.environ["STAND_IN_DOCKER"])
REGISTRY = {"postgres:18": "18", "postgres:15": "15", "registry.example.com/team/pg:stable": "18"}
FLAGS = {"--detach", "--interactive", "--tty", "--quiet", "--force", "--volumes", "--follow"}


def fail(words: str, status: int = 1) -> None:
    sys.stderr.write(f"Error response from daemon: {words}\n")
    sys.exit(status)


def parse(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the options before the first plain word, and the words from there on."""
    options: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        options.setdefault(word, []).append("" if word in FLAGS else rest.pop(0))
    return options, rest


def containers(name: str) -> Path:
    return HOME / "containers" / name


def volumes(name: str) -> Path:
    return HOME / "volumes" / name


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(values))
    new.replace(path)


def labels(options: dict[str, list[str]]) -> dict[str, str]:
    return dict(label.split("=", 1) for label in options.get("--label", []))


def socket_folder(name: str) -> Path:
    return Path(tempfile.gettempdir()) / ("sid-" + hashlib.sha256(str(containers(name)).encode()).hexdigest()[:8])


def runs(name: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        os.kill(read(containers(name) / "supervisor.json"), 0)
        return not (containers(name) / "exit.json").exists()
    return False


def pid(name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(read(containers(name) / "pid.json"))
    return 0


def cmd_ps(words: list[str]) -> None:
    parse(words)


def cmd_image(words: list[str]) -> None:
    assert words[0] == "inspect"
    if not (HOME / "images" / words[1].replace("/", "_")).exists():
        fail(f"No such image: {words[1]}")
    print("[{}]")


def cmd_pull(words: list[str]) -> None:
    (image,) = words
    if image not in REGISTRY:
        fail(f"manifest for {image} not found: manifest unknown: manifest unknown")
    (HOME / "images").mkdir(exist_ok=True)
    (HOME / "images" / image.replace("/", "_")).touch()


def cmd_volume(words: list[str]) -> None:
    options, rest = parse(words[1:])
    path = volumes(rest[0])
    if words[0] == "create":
        write(path / "labels.json", labels(options))
    elif not path.exists():
        fail(f"get {rest[0]}: no such volume")
    elif words[0] == "inspect":
        print(json.dumps([{"Name": rest[0], "Labels": read(path / "labels.json")}]))
    elif words[0] == "rm":
        shutil.rmtree(path)
    else:
        fail(f"unknown command {words[0]}", 64)


def cmd_container(words: list[str]) -> None:
    assert words[0] == "inspect"
    path = containers(words[1])
    if not path.exists():
        print("[]")
        fail(f"No such container: {words[1]}")
    made = read(path / "made.json")
    exit_code = read(path / "exit.json") if (path / "exit.json").exists() else 0
    state = {"Running": runs(words[1]), "Pid": pid(words[1]), "StartedAt": made["started"], "ExitCode": exit_code}
    ports = {"5432/tcp": [{"HostIp": made["host"], "HostPort": str(made["port"])}]} if state["Running"] else {}
    found = {
        "Id": made["id"],
        "State": state,
        "Config": {"Labels": made["labels"]},
        "NetworkSettings": {"Ports": ports},
    }
    print(json.dumps([found]))


def cmd_run(words: list[str]) -> None:
    options, (image, *command) = parse(words)
    (name,), (publish,), (volume,) = (options[key] for key in ("--name", "--publish", "--volume"))
    if containers(name).exists():
        fail(f'Conflict. The container name "/{name}" is already in use', 125)
    host, port, inside = publish.split(":")
    assert (host, inside) == ("127.0.0.1", "5432")
    environment = {}
    for entry in options["--env"]:
        key, given, value = entry.partition("=")
        environment[key] = value if given else os.environ[key]
    write(
        containers(name) / "made.json",
        {
            "id": hashlib.sha256(os.urandom(8)).hexdigest(),
            "started": datetime.now(UTC).isoformat().replace("+00:00", "123Z"),
            "labels": labels(options),
            "host": host,
            "port": int(port),
            "image": image,
            "command": command,
            "environment": environment,
            "volume": volume.split(":"),
        },
    )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            fail(
                f"failed to set up container networking: Bind for {publish} failed: port is already allocated",
                125,
            )
    supervisor = subprocess.Popen(
        [sys.executable, __file__, "supervise", name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    write(containers(name) / "supervisor.json", supervisor.pid)
    print(read(containers(name) / "made.json")["id"])


def supervise(name: str) -> None:
    """Be the container: the image's entry point, and what keeps its log."""
    # The only part that needs more than the standard library, and may take its time.
    from pg_tenants.server.engines import programs_for
    from pg_tenants.server.identity import current

    path = containers(name)
    made = read(path / "made.json")
    engine, identity = programs_for(REGISTRY[made["image"]]), current()
    environment, (volume, mount) = made["environment"], made["volume"]
    data = Path(environment["PGDATA"].replace(mount, str(volumes(volume)), 1))
    write(path / "programs.json", str(engine.programs))
    sockets = socket_folder(name)
    sockets.mkdir(exist_ok=True)
    with (path / "log").open("a", buffering=1) as log:

        def run(command: list[str]) -> int:
            with subprocess.Popen(
                [*identity.prefix, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                **identity.popen_options,
            ) as process:
                if "--pgdata" not in command:
                    write(path / "pid.json", process.pid)
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(f"{time.time():.6f} {line}")
                return process.wait()

        status = 0
        if not (data / "PG_VERSION").exists():
            secret = path / "secret"
            secret.write_text(environment["POSTGRES_PASSWORD"] + "\n")
            words = ["--pgdata", str(data), f"--username={environment['POSTGRES_USER']}", f"--pwfile={secret}"]
            status = run(engine.command("initdb", *words, "--no-sync", *environment["POSTGRES_INITDB_ARGS"].split()))
            secret.unlink()
            if status == 0:
                with (data / "pg_hba.conf").open("a") as file:
                    file.write("\nhost all all all scram-sha-256\n")
        if status == 0:
            assert made["command"][0] == "postgres"
            place = ["-D", str(data), "-p", str(made["port"]), "-c", f"unix_socket_directories={sockets}"]
            status = run(engine.command("postgres", *made["command"][1:], *place))
        write(path / "exit.json", 128 - status if status < 0 else status)
    shutil.rmtree(sockets, ignore_errors=True)


def cmd_stop(words: list[str]) -> None:
    options, (name,) = parse(words)
    end(name, signal.SIGINT, float(options["-t"][0]))
    print(name)


def cmd_kill(words: list[str]) -> None:
    (name,) = words
    end(name, signal.SIGKILL, 10)


def end(name: str, number: signal.Signals, seconds: float) -> None:
    if pid(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid(name), number)
    deadline = time.monotonic() + seconds
    while runs(name):
        if time.monotonic() > deadline or not pid(name):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(read(containers(name) / "supervisor.json"), signal.SIGKILL)
            write(containers(name) / "exit.json", 137)
        time.sleep(0.01)


def cmd_rm(words: list[str]) -> None:
    options, (name,) = parse(words)
    assert options.keys() == {"--force", "--volumes"}
    if runs(name):
        end(name, signal.SIGKILL, 10)
    shutil.rmtree(containers(name))


def cmd_logs(words: list[str]) -> None:
    options, (name,) = parse(words)
    if not containers(name).exists():
        fail(f"No such container: {name}")
    since = float(options.get("--since", ["0"])[0])
    tail = int(options.get("--tail", ["1000000"])[0])
    shown = 0
    while True:
        going_on = runs(name)
        log = containers(name) / "log"
        lines = [line.split(" ", 1) for line in log.read_text().splitlines()] if log.exists() else []
        fresh = [text for moment, text in lines if float(moment) >= since][shown:]
        shown += len(fresh)
        for line in fresh[-tail:] if tail else []:
            sys.stderr.write(line + "\n")
        if "--follow" not in options or not going_on:
            return
        time.sleep(0.05)


def cmd_exec(words: list[str]) -> None:
    options, (name, program, *arguments) = parse(words)
    if not runs(name):
        fail(f"container {name} is not running")
    made = read(containers(name) / "made.json")
    variables = dict(entry.split("=", 1) for entry in options["--env"])
    variables |= {"PGHOST": str(socket_folder(name)), "PGPORT": str(made["port"])}
    programs = Path(read(containers(name) / "programs.json"))
    done = subprocess.run([programs / program, *arguments], env={**os.environ, **variables}, check=False)
    sys.exit(done.returncode)


def main(words: list[str]) -> None:
    if words[0] == "supervise":
        supervise(words[1])
        return
    HOME.mkdir(exist_ok=True)
    with (HOME / "calls.jsonl").open("a") as file:
        file.write(json.dumps(words) + "\n")
    if (HOME / "down").exists():
        sys.stderr.write(
            "Cannot connect to the Docker daemon: dial unix /var/run/docker.sock: no such file or directory\n"
        )
        sys.exit(1)
    globals()[f"cmd_{words[0]}"](words[1:])


if __name__ == "__main__":
    main(sys.argv[1:])

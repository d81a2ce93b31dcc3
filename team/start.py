"""Starts the servers of a team as plain processes: PostgreSQL, S3, and MLflow with passwords.

    python team/start.py FOLDER

Prints the environment variables for every clone, and runs until it is interrupted. PostgreSQL
stores its files in FOLDER. The S3 server (moto) stores everything in memory, so use this script
only to try the servers, and for tests. For permanent servers, use compose.yaml, or give MLflow the
same settings with your own S3 service.

Requires `pip install -e '.[team]'` and PostgreSQL (Debian: `apt-get install postgresql`).
"""

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3

BUCKETS = ("mlflow", "dvc")


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def postgres_program(name: str) -> str:
    """Return the path of a program of PostgreSQL; on Debian they are not in the PATH."""
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None
    )
    if found is None:
        sys.exit(f"start: PostgreSQL's {name} is not installed: apt-get install postgresql.")
    return found


def start_postgres(folder: Path, port: int, password: str) -> subprocess.Popen[bytes]:
    """Create a database in a new folder, and start its server; the user name is mlflow."""
    folder.mkdir(parents=True)
    owner = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = "postgres"
        shutil.chown(folder, owner)
    file = folder.parent / "password"
    file.touch(0o600)
    file.write_text(password)
    if owner:
        shutil.chown(file, owner)
    command = [postgres_program("initdb"), "--pgdata", str(folder / "data"), "--username", "mlflow"]
    command += ["--auth", "scram-sha-256", "--pwfile", str(file), "--encoding", "UTF8"]
    created = subprocess.run(command, stdout=subprocess.DEVNULL, user=owner, cwd="/")
    file.unlink()
    if created.returncode:
        hint = f" Its user, {owner}, needs access to that folder." if owner else ""
        sys.exit(f"start: PostgreSQL cannot create a database in {folder}.{hint}")
    return subprocess.Popen(
        [
            postgres_program("postgres"), "-D", str(folder / "data"), "-p", str(port),
            "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=owner, cwd="/",
    )  # fmt: skip


def wait_for(port: int, process: subprocess.Popen[bytes], what: str) -> None:
    """Return when a process listens on a port; exit if the process ends, or after a minute."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                sys.exit(f"start: {what} ended with exit code {process.returncode}.")
            time.sleep(0.1)
    sys.exit(f"start: {what} does not answer.")


def start(folder: Path, password: str, processes: list[subprocess.Popen[bytes]]) -> dict[str, str]:
    """Start all servers, and add them to `processes`; return the environment of their clients."""
    database_port, s3_port, mlflow_port = free_port(), free_port(), free_port()
    s3 = f"http://127.0.0.1:{s3_port}"
    keys = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": password}
    keys["AWS_DEFAULT_REGION"] = "us-east-1"

    processes.append(start_postgres(folder / "postgres", database_port, password))
    wait_for(database_port, processes[-1], "PostgreSQL")
    storage = ["moto_server", "--host", "127.0.0.1", "--port", str(s3_port)]
    processes.append(
        subprocess.Popen(storage, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    wait_for(s3_port, processes[-1], "the S3 server")
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1",
        aws_access_key_id="team", aws_secret_access_key=password,
    )  # fmt: skip
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)

    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = EDIT\nadmin_username = admin\n"
        "database_uri = sqlite:///users.db\n"  # in the server's folder
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # without it, MLflow computes the slow digest of the password several times for each request
        "auth_cache_ttl_seconds = 60\n"
    )
    database = f"postgresql+psycopg://mlflow:{password}@127.0.0.1:{database_port}/postgres"
    mlflow = ["mlflow", "server", "--app-name", "basic-auth", "--workers", "2"]
    mlflow += ["--host", "127.0.0.1", "--port", str(mlflow_port)]
    mlflow += ["--artifacts-destination", "s3://mlflow"]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database,  # every user of the machine can see a command line
        "MLFLOW_S3_ENDPOINT_URL": s3,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
        # else it starts eight processes for its language model pages, which outlive the server
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "mlflow.log").open("wb") as log:
        processes.append(
            subprocess.Popen(
                mlflow, env=os.environ | keys | environment, stdout=log, stderr=log, cwd=folder
            )
        )
    wait_for(mlflow_port, processes[-1], f"MLflow (see {folder / 'mlflow.log'})")
    wait_until_healthy(f"http://127.0.0.1:{mlflow_port}")
    return keys | {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow_port}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": password,
        "AWS_ENDPOINT_URL": s3,  # for DVC; clients send artifacts to MLflow's server
    }


def wait_until_healthy(address: str) -> None:
    """Return when MLflow answers."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/health").close()
            return
        except urllib.error.HTTPError:
            return  # it asks for a password, so it works
        except OSError:
            time.sleep(0.1)


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Stop all servers, in reverse order."""
    for process in reversed(processes):
        process.send_signal(signal.SIGINT)  # PostgreSQL's "fast shutdown"
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a new folder for databases and logs")
    folder = parser.parse_args().folder.resolve()
    if folder.exists():
        sys.exit(f"start: {folder} already exists: choose a new folder.")
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    password = os.environ.get("TEAM_PASSWORD") or secrets.token_urlsafe(12)
    processes: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job of a shell ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        for name, value in start(folder, password, processes).items():
            print(f"export {name}={shlex.quote(value)}")
        print("# in every clone, once: dvc remote add --local --default team s3://dvc", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        stop(processes)


if __name__ == "__main__":
    main()

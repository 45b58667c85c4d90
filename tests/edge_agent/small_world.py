"""What stands around an agent under test: a fog's HTTP side, and a machine with a fake root to start agents on."""

import functools
import json
import ssl
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from stand_in_release import PUBLIC_KEY, make_release, manifest_digest

from edge_agent.drivers.control_socket import AgentLine
from learning_core.errors import LinkDown
from protos.state_folder import write_atomically

THERMAL = "sys/class/thermal/thermal_zone0"


class Mirror:
    """The HTTP side of a fog: serves what lies under `folder`, answers enrolments, remembers what was asked."""

    def __init__(self, folder, certificate):
        self.folder, self.ca = folder, certificate[0]
        self.asked, self.tokens, self.latest = [], {"good": None}, None
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                mirror.asked.append(self.path)
                if self.path.endswith("/releases/latest"):
                    return self.answer(*((200, mirror.latest) if mirror.latest else (404, {"error": "none yet"})))
                self.path = self.path.removeprefix("/v1/dewfall/releases")
                return super().do_GET()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                mirror.asked.append(self.path)
                if not self.path.endswith("/enroll"):
                    return self.answer(503, {"error": "there is no fleet here"})
                asked = json.loads(body)
                if asked["token"] not in mirror.tokens:
                    return self.answer(403, {"error": "this fog does not know that token"})
                if (owner := mirror.tokens[asked["token"]] or asked["public_key"]) != asked["public_key"]:
                    return self.answer(409, {"error": "another device has used that token"})
                mirror.tokens[asked["token"]] = owner
                return self.answer(200, {"node_id": "123", "fog": "fog-a"})

            def answer(self, code, tree):
                data = json.dumps(tree).encode()
                self.send_response(code)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        # the handshake in the thread of the connection: one that fails in accept() would leave its socket open
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def publish(self, version, **changes):
        """A new release on this mirror; (version, manifest digest)."""
        make_release(self.folder / str(version), version, **changes)
        self.latest = {"version": version, "manifest_sha256": manifest_digest(self.folder / str(version))}
        return version, self.latest["manifest_sha256"]

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Machine:
    """A device with a fake root on which agents are started."""

    def __init__(self, folder, address, ca, token, more=""):
        self.folder, self.state, self.spool = folder, folder / "state", folder / "spool"
        self.spool.mkdir()
        self.heat(45.0)
        self.settings = folder / "device.toml"
        self.agents = []
        self.write(
            f"""
            name = "device-1"
            state = "{self.state}"
            [fog]
            address = "{address}"
            ca = "{ca}"
            release_key = "{PUBLIC_KEY.hex()}"
            token = "{token}"
            [telemetry]
            root = "{folder / "root"}"
            interval_s = 0.1
            [source]
            spool = "{self.spool}"
            interval_s = 0.05
            {more}
            """
        )

    def write(self, text):
        self.settings.write_text(text)

    def heat(self, temp_c):
        zone = self.folder / "root" / THERMAL
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "type").write_text("cpu-thermal\n")
        write_atomically(zone / "temp", b"%d\n" % round(temp_c * 1000))

    def command(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "edge_agent", *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    def start(self):
        with (self.folder / "log").open("ab") as log:
            arguments = [sys.executable, "-m", "edge_agent", "run", "--config", str(self.settings)]
            agent = subprocess.Popen(arguments, stderr=log)
        self.agents.append(agent)
        return agent

    def status(self):
        """What the agent says, None while it does not answer."""
        try:
            with AgentLine(self.state / "agent.sock") as line:
                return line.ask("status")[0]["status"]
        except LinkDown:
            return None

    def wait_for(self, wanted, timeout_s=30.0):
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if (status := self.status()) is not None and wanted(status):
                return status
            time.sleep(0.1)
        pytest.fail(f"it did not come to pass; the log says\n{(self.folder / 'log').read_text()}")

    def close(self):
        for agent in self.agents:
            agent.kill()
            agent.wait()

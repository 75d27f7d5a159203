"""Fixtures every test may use: real servers, one set for each session, started when first asked for."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.support import servers

# How long an example takes beside other tests says nothing about it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-")
#: Each has commands paint what they say, wherever it goes; build servers set them.
_COLOURS = ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS")
_choice = pytest.StashKey[servers.BrokerChoice]()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if os.environ.get("SLUICEWAY_REDIS_URL"):  # given, so there is one for all, and tests empty it
        config.option.numprocesses, config.option.dist = None, "no"


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs us in the background has Ctrl-C ignored, and our processes would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name in _COLOURS]:
        del os.environ[name]  # all servers are on this machine, and what commands say is read here
    config.stash[_choice] = servers.choose_broker()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes and texts with a UUID name no test: packed bytes hold a time, UUIDs are random, and workers must collect
    the same names.
    """
    return argname if isinstance(val, bytes) or (isinstance(val, str) and _UUID.search(val)) else None


def pytest_report_header(config: pytest.Config) -> str:
    return f"broker under test: {config.stash[_choice]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"broker under test: {config.stash[_choice]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus != pytest.ExitCode.OK or session.config.option.collectonly:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED  # everything was skipped: nothing was proved


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    # Loggers used then would keep what is set up there, and later tests of this worker would look for lines in vain.
    assert not structlog.get_config()["cache_logger_on_first_use"], f"{item.nodeid} set up logging for all that follow"


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    with servers.servers_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server in which databases may be made; most tests want `database_url`."""
    with servers.postgres_url(servers_folder) as url:
        yield url


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """The name of a migrated database to clone."""
    with servers.migrated_template(postgres_server) as name:
        yield name


@pytest.fixture
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    with servers.clone(postgres_server, template_database) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server(servers_folder: Path) -> Iterator[str]:
    """The URL of a Redis; most tests want `redis_url`."""
    with servers.redis_server_url(servers_folder) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis database."""
    servers.empty_redis(redis_server)
    return redis_server


@pytest.fixture(scope="session")
def broker_choice(request: pytest.FixtureRequest) -> servers.BrokerChoice:
    """Which broker is under test; `kind` is what SLUICEWAY_BROKER must say to its clients."""
    return request.config.stash[_choice]


@pytest.fixture(scope="session")
def kafka_bootstrap(broker_choice: servers.BrokerChoice, servers_folder: Path) -> Iterator[str]:
    """host:port of the broker under test; its topics outlive a test, so prefix yours by `topic_prefix`."""
    with servers.broker_address(broker_choice, servers_folder) as address:
        yield address


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}"

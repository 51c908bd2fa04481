"""The configuration: what is read, what is refused, and that every problem is named at once."""

import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from node.config import (
    Config,
    Peer,
    Protocol,
    Role,
    default_config,
    is_loopback,
    read_config,
)
from node.errors import ConfigError
from node.outline_program import SecondOpinionSettings

PROTOCOL = """
[[protocol]]
name = "liver"
targets = ["GTV*"]
"""
DESIGN_EXAMPLE = """
[node]
ae_title = "HILUM"
host = "127.0.0.1"
port = 11112
data = "./hilum-data"            # objects, index, results
# database = "postgresql+psycopg://user@host/hilum"
quiet_s = 60

[web]
host = "127.0.0.1"
port = 8080

[[peer]]
name = "tps"
ae_title = "TPS"
host = "127.0.0.1"
port = 11113
roles = ["send", "receive"]

[[protocol]]
name = "periportal-sbrt"
targets = ["GTVn*", "GTV*"]      # ROI name patterns, first match wins
mr = ["*"]                       # SeriesDescription patterns, preferred order
max_outward_mm = 5.0
destinations = ["tps"]
[protocol.prescription]
dose_gy = 40.0
fractions = 5
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "hilum.toml"
    path.write_text(text, encoding="utf-8")
    return path


def check_refused(folder: Path, text: str, *problems: str) -> None:
    """Check that the file is refused with exactly these problems."""
    with pytest.raises(ConfigError) as refused:
        read_config(written(folder, text))
    assert sorted(refused.value.problems) == sorted(problems)


def peer(**given: object) -> Peer:
    usual = {"name": "a", "ae_title": "SCANNER", "host": "10.0.0.1", "roles": (Role.SEND,)}
    return Peer.model_validate({**usual, **given})


# What is read


def test_example_of_the_design_is_read_as_it_stands(tmp_path: Path) -> None:
    """DESIGN 6: the least configuration that works."""
    config = read_config(written(tmp_path, DESIGN_EXAMPLE))
    assert config.origin == "file"
    assert config.node.quiet_s == 60.0
    assert config.peer[0].roles == (Role.SEND, Role.RECEIVE)
    protocol = config.protocol[0]
    assert protocol.targets == ("GTVn*", "GTV*")
    assert protocol.structure_sets == ("*",)
    assert protocol.prescription is not None
    assert (protocol.prescription.dose_gy, protocol.prescription.fractions) == (40.0, 5)


def test_registration_is_automatic_unless_the_protocol_orders_otherwise(tmp_path: Path) -> None:
    """Issue 3: a protocol may order that a registration is used as it was sent."""
    assert read_config(written(tmp_path, PROTOCOL)).protocol[0].registration == "automatic"
    ordered = f'{PROTOCOL}\nregistration = "as-sent"\n'
    assert read_config(written(tmp_path, ordered)).protocol[0].registration == "as-sent"
    with pytest.raises(ConfigError, match="registration"):
        read_config(written(tmp_path, f'{PROTOCOL}\nregistration = "manual"\n'))


def test_defaults_count_when_no_file_is_given() -> None:
    """DESIGN 6: without a file the node runs, and admits nobody but this machine."""
    config = read_config(None)
    assert config == default_config()
    assert config.origin == "defaults"
    assert all(is_loopback(each.host) for each in config.peer)
    assert not any(each.admits("ANYONE", "10.0.0.1") for each in config.peer)
    (stranger,) = [each for each in config.peer if each.admits("ANYONE", "127.0.0.1")]
    assert stranger.roles == (Role.SEND,)


def test_data_folder_is_relative_to_the_file_when_it_is_relative(tmp_path: Path) -> None:
    """The folder does not depend on where the program was started."""
    config = read_config(written(tmp_path, PROTOCOL))
    assert config.node.data == tmp_path / "hilum-data"
    assert config.node.database_url == f"sqlite:///{tmp_path}/hilum-data/index.sqlite"
    elsewhere = tmp_path / "elsewhere"
    config = read_config(written(tmp_path, f'[node]\ndata = "{elsewhere}"\n{PROTOCOL}'))
    assert config.node.data == elsewhere


def test_database_is_taken_as_given(tmp_path: Path) -> None:
    """DESIGN 8: another database is one key."""
    url = "postgresql+psycopg://user@host/hilum"
    config = read_config(written(tmp_path, f'[node]\ndatabase = "{url}"\n{PROTOCOL}'))
    assert config.node.database_url.startswith(f"{url}?connect_timeout=10&")


@pytest.mark.parametrize(
    ("keys", "patience_s"),
    [("", 600.0), ("quiet_s = 5", 50.0), ("quiet_s = 5\nincomplete_s = 7.5", 7.5)],
)
def test_patience_is_ten_quiet_periods_when_not_given(
    tmp_path: Path, keys: str, patience_s: float
) -> None:
    """How long a case waits for slices that never come."""
    config = read_config(written(tmp_path, f"[node]\n{keys}\n{PROTOCOL}"))
    assert config.node.patience_s == patience_s


def test_file_is_read_when_an_editor_put_a_byte_order_mark_first(tmp_path: Path) -> None:
    """Files from Windows editors begin with one."""
    path = tmp_path / "hilum.toml"
    path.write_bytes(b"\xef\xbb\xbf" + PROTOCOL.strip().encode())
    assert read_config(path).protocol[0].name == "liver"


def test_configuration_cannot_be_changed_once_it_is_read() -> None:
    """STYLE 4.6: the configuration is frozen."""
    with pytest.raises(ValidationError):
        default_config().node.port = 1


def test_second_opinion_is_off_unless_the_file_has_its_section(tmp_path: Path) -> None:
    """Never required: nothing is looked for, wherever it may be installed."""
    assert default_config().second_opinion is None
    assert read_config(written(tmp_path, PROTOCOL)).second_opinion is None


def test_second_opinion_has_the_defaults_of_its_settings(tmp_path: Path) -> None:
    """Weights are all it needs; they lie relative to the file."""
    path = written(tmp_path, '[second_opinion]\nweights = "w"\n' + PROTOCOL)
    section = read_config(path).second_opinion
    assert section is not None
    assert section.settings() == SecondOpinionSettings(weights=tmp_path / "w")


def test_second_opinion_is_read_with_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is a file beside the configuration, also where that is the current folder."""
    text = """
    [second_opinion]
    weights = "/models"
    program = "ts"
    fast = true
    device = "gpu"
    timeout_s = 90
    memory_mib = 4096
    """
    written(tmp_path, text + PROTOCOL)
    monkeypatch.chdir(tmp_path)
    section = read_config(Path("hilum.toml")).second_opinion
    assert section is not None
    assert section.settings() == SecondOpinionSettings(
        weights=Path("/models"),
        program=tmp_path / "ts",
        is_fast=True,
        device="gpu",
        timeout_s=90.0,
        memory_mib=4096.0,
    )


# What is refused


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[node]\nquiet = 3", "node.quiet: unknown key; did you mean quiet_s?"),
        ("[web]\nprot = 3", "web.prot: unknown key; did you mean port?"),
        ("protocl = 3", "protocl: unknown key; did you mean protocol?"),
        ("zzzzzzz = 3", "zzzzzzz: unknown key"),
        ('origin = "defaults"', "origin: unknown key"),
        ('[node]\nport = "104"', "node.port: Input should be a valid integer"),
        ("[node]\nport = true", "node.port: Input should be a valid integer"),
        ("[node]\nport = 65536", "node.port: Input should be less than or equal to 65535"),
        ("[node]\nquiet_s = nan", "node.quiet_s: Input should be a finite number"),
        ("[node]\nquiet_s = -1", "node.quiet_s: Input should be greater than or equal to 0"),
        (
            "[node]\nmr_wait_h = 1e9",
            "node.mr_wait_h: Input should be less than or equal to 10000000",
        ),
        ('[node]\nhost = ""', "node.host: String should have at least 1 character"),
        (
            '[node]\nae_title = "*"',
            'node: ae_title "*" is no title for a node; it stands for any sender',
        ),
        (
            "[node]\ndelivery_retry_s = 400",
            "node.delivery_retry_cap_s is smaller than node.delivery_retry_s",
        ),
        (
            '[[peer]]\nname = "a"\nae_title = "A"\nhost = "x"\nroles = ["sent"]',
            "peer[1].roles[1]: Input should be 'send', 'receive', 'query' or 'commit'",
        ),
        (
            '[[peer]]\nname = "a"\nae_title = "A"\nhost = "x"\nroles = []',
            "peer[1]: roles is empty: a peer that may do nothing is an unknown peer",
        ),
        (
            '[[peer]]\nname = "a"\nae_title = "A"\nhost = "x"\nroles = ["receive"]',
            "peer[1]: port is missing: a peer that receives needs one",
        ),
        (
            '[[peer]]\nname = "a"\nae_title = "A"\nhost = "x"\nport = 1\nroles = ["commit"]',
            "peer[1]: role commit without receive: only a peer that is sent results can commit",
        ),
        (
            '[[peer]]\nname = "a"\nae_title = "A"\nhost = "x"\nroles = ["send"]\n'
            "max_mbit_per_s = 1e-300",
            "peer[1].max_mbit_per_s: Input should be greater than or equal to 0.01",
        ),
        (
            '[[peer]]\nname = "a"\nae_title = "*"\nhost = "10.0.0.1"\nroles = ["send"]',
            'peer[1]: ae_title "*" is allowed for a sender on the loopback address only',
        ),
        (
            '[[peer]]\nname = "a"\nae_title = "*"\nhost = "::1"\nroles = ["send", "query"]',
            'peer[1]: ae_title "*" is allowed for a sender on the loopback address only',
        ),
    ],
)
def test_file_is_refused_with_the_key_when_a_value_is_wrong(
    tmp_path: Path, text: str, problem: str
) -> None:
    """DESIGN 6: unknown key or wrong value: refusal, with the key and what to write instead."""
    check_refused(tmp_path, text + "\n" + PROTOCOL, problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no [[protocol]]: without one no case can ever be formed"),
        ('[[protocol]]\nname = "a"', "protocol[1].targets: missing"),
        (
            '[[protocol]]\nname = "a"\ntargets = []',
            "protocol[1].targets: Tuple should have at least 1 item after validation, not 0",
        ),
        (
            '[[protocol]]\nname = "a"\ntargets = ["x"]\nmr = "T1"',
            "protocol[1].mr: Input should be a valid tuple",
        ),
        (
            '[[protocol]]\nname = "a"\ntargets = ["x"]\nmax_outward_mm = 16',
            "protocol[1].max_outward_mm: Input should be less than or equal to 15",
        ),
        (
            PROTOCOL + "[protocol.prescription]\ndose_gy = 40\nfraction = 5\nfractions = 5",
            "protocol[1].prescription.fraction: unknown key; did you mean fractions?",
        ),
        (PROTOCOL * 2, "protocol name 'liver' is used twice"),
        (
            PROTOCOL + 'destinations = ["pacs"]',
            "protocol 'liver': destination 'pacs' is no peer with the role 'receive'",
        ),
    ],
)
def test_protocols_are_refused_when_they_can_do_nothing(
    tmp_path: Path, text: str, problem: str
) -> None:
    """A protocol without target, or that delivers to nobody, is found at start, not in a year."""
    check_refused(tmp_path, text, problem)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["second_opinion.weights: missing"]),
        (
            'weight = "w"\ndevice = "tpu"\ntimeout_s = "long"\nmemory_mib = 0',
            [
                "second_opinion.weights: missing",
                "second_opinion.weight: unknown key; did you mean weights?",
                "second_opinion.device: Input should be 'cpu' or 'gpu'",
                "second_opinion.timeout_s: Input should be a valid number",
                "second_opinion.memory_mib: Input should be greater than 0",
            ],
        ),
        (
            'weights = "w"\n[node]\ncompute_timeout_s = 1200\nport = "x"',
            [
                "node.port: Input should be a valid integer",
                "second_opinion.timeout_s (1200) must be smaller than node.compute_timeout_s "
                "(1200): else a slow program takes the whole case with it",
            ],
        ),
        (
            'weights = "w"\ntimeout_s = 1800.5',
            [
                "second_opinion.timeout_s (1800.5) must be smaller than node.compute_timeout_s "
                "(1800): else a slow program takes the whole case with it",
            ],
        ),
    ],
)
def test_second_opinion_is_refused_with_every_problem(
    tmp_path: Path, text: str, problems: list[str]
) -> None:
    """DESIGN 6: key and limit are named, also those that only show between sections."""
    check_refused(tmp_path, f"[second_opinion]\n{text}\n{PROTOCOL}", *problems)


def test_every_problem_is_named_when_there_are_several(tmp_path: Path) -> None:
    """DESIGN 6: all problems at once, those between sections too, whatever else is wrong."""
    check_refused(
        tmp_path,
        """
        [node]
        quiet = 3
        port = "x"
        [[peer]]
        name = "tps"
        ae_title = "A TITLE OF 20 SIGNS."
        host = "10.0.0.1"
        port = 104
        roles = ["send"]
        [[peer]]
        name = "tps"
        ae_title = "B"
        host = ""
        roles = ["send"]
        [[protocol]]
        name = "a"
        targets = ["GTV*"]
        destinations = ["tps", "nobody", "nobody"]
        [protocol.prescription]
        dose_gy = 0
        """,
        "node.quiet: unknown key; did you mean quiet_s?",
        "node.port: Input should be a valid integer",
        "peer[1].ae_title: String should have at most 16 characters",
        "peer[2].host: String should have at least 1 character",
        "protocol[1].prescription.dose_gy: Input should be greater than 0",
        "protocol[1].prescription.fractions: missing",
        "peer name 'tps' is used twice",
        "protocol 'a': destination 'tps' is no peer with the role 'receive'",
        "protocol 'a': destination 'nobody' is no peer with the role 'receive'",
        "protocol 'a': destination 'nobody' is named twice",
    )


@pytest.mark.parametrize(
    "text",
    ["peer = 3", "peer = [3]", "[[peer]]\nname = [1]\nroles = 3", 'protocol = "x"',
     "second_opinion = 3", "[[second_opinion]]\ntimeout_s = true",
     "[[protocol]]\nname = 1\ndestinations = [1, {}]", "[node]\n[[node.data]]"],
)  # fmt: skip
def test_unsound_file_is_refused_and_never_crashes_the_reader(tmp_path: Path, text: str) -> None:
    """Every shape of nonsense ends in a list of problems."""
    with pytest.raises(ConfigError) as refused:
        read_config(written(tmp_path, text))
    assert refused.value.problems


@pytest.mark.parametrize("text", ["[node", "a = 1\na = 2", "\x00"])
def test_file_is_refused_when_it_is_no_toml(tmp_path: Path, text: str) -> None:
    """The message names the file."""
    with pytest.raises(ConfigError, match=r"hilum\.toml is not valid TOML"):
        read_config(written(tmp_path, text))


def test_file_is_refused_when_it_cannot_be_read(tmp_path: Path) -> None:
    """Absent file, folder, or bytes that are no text."""
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config(tmp_path)
    path = tmp_path / "hilum.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_config(path)


@pytest.mark.parametrize("title", ["", " A", "A ", "A\n", "A\\B", "Ä", "A" * 17])
def test_ae_title_is_refused_when_it_is_none(title: str) -> None:
    """PS3.5 6.2, AE: at most 16 signs, no backslash, no control sign, spaces only inside."""
    with pytest.raises(ValidationError):
        peer(ae_title=title)


@pytest.mark.parametrize("title", ["A", "A B", "A" * 16, "CT-1_2.3#"])
def test_ae_title_is_taken_when_the_standard_allows_it(title: str) -> None:
    """PS3.5 6.2, AE."""
    assert peer(ae_title=title).ae_title == title


# Certificates, user identity

TLS = """
[tls]
certificate = "hilum.pem"
key = "hilum.key"
peer_authorities = "/etc/hilum/authorities.pem"
"""
PEER = """
[[peer]]
name = "a"
ae_title = "A"
host = "10.0.0.1"
roles = ["send"]
"""


def test_certificates_and_passcodes_lie_beside_the_file(tmp_path: Path) -> None:
    """Relative paths are relative to the file, a fingerprint is no path; nothing is read yet."""
    identity = 'username = "u"\npasscode_file = "a.passcode"'
    pinned = PEER.replace('"a"', '"b"') + f'certificate = "sha256:{"aB:" * 31}cd"'
    text = f'{TLS}\n{PEER}\ncertificate = "a.pem"\n{identity}\n{pinned}\n{PROTOCOL}'
    config = read_config(written(tmp_path, text))
    tls, (a, b) = config.tls, config.peer
    assert tls is not None
    assert (tls.certificate, tls.key) == (tmp_path / "hilum.pem", tmp_path / "hilum.key")
    assert tls.peer_authorities == Path("/etc/hilum/authorities.pem")
    assert (tls.port, tls.require) == (2762, False)
    assert (a.certificate, a.passcode_file) == (str(tmp_path / "a.pem"), tmp_path / "a.passcode")
    assert b.certificate == f"sha256:{'aB:' * 31}cd"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[tls]\ncertificate = 'a'\nkey = 'b'", "tls.peer_authorities: missing"),
        (TLS + "requires = true", "tls.requires: unknown key; did you mean require?"),
        (TLS + 'require = "yes"', "tls.require: Input should be a valid boolean"),
        (
            TLS + "port = 11112",
            "tls.port is node.port: the encrypted listener needs a port of its own",
        ),
        (
            '[node]\ntransport = "plain"\n' + TLS,
            'node.transport = "plain" has no TLS: leave out transport, or [tls]',
        ),
        (
            "[node]\nport = 2762\n" + TLS,
            "tls.port is node.port: the encrypted listener needs a port of its own",
        ),
        (
            PEER + "port = 104\ntls = true",
            "peer 'a': tls needs our own certificate: add the section [tls]",
        ),
        (
            PEER + 'certificate = "a.pem"',
            "peer 'a': certificate needs our own certificate: add the section [tls]",
        ),
        (TLS + PEER + "tls = true", "peer[1]: tls is how we call the peer: it needs a port"),
        (
            TLS + PEER + 'certificate = "sha256:1234"',
            "peer[1]: certificate is no SHA-256 fingerprint: 64 hexadecimal digits",
        ),
        (
            TLS + PEER.replace("10.0.0.1", "*"),
            'peer[1]: host "*" is allowed for a peer with a certificate only',
        ),
        (
            TLS + PEER.replace("10.0.0.1", "*") + 'certificate = "a.pem"\nport = 104',
            'peer[1]: host "*" is no place to call: leave out port, or name the host',
        ),
        (PEER + 'passcode = "p"', "peer[1]: username is missing: a passcode needs one"),
        (PEER + 'passcode_file = "p"', "peer[1]: username is missing: a passcode needs one"),
        (
            PEER + 'username = "u"\npasscode = "p"\npasscode_file = "p"',
            "peer[1]: passcode and passcode_file are both given: leave out one",
        ),
        (
            PEER + 'username = "u"\npasscode = ""',
            "peer[1].passcode: Value should have at least 1 item after validation, not 0",
        ),
        (PEER + 'username = ""', "peer[1].username: String should have at least 1 character"),
    ],
)
def test_access_is_refused_when_it_would_prove_nothing(
    tmp_path: Path, text: str, problem: str
) -> None:
    """Issue 4, 11 to 13: what cannot work, or protects nothing, is refused at the start."""
    check_refused(tmp_path, f"{text}\n{PROTOCOL}", problem)


def test_every_fault_of_a_peer_is_named_at_once(tmp_path: Path) -> None:
    """DESIGN 6."""
    text = PEER.replace("10.0.0.1", "*").replace('["send"]', "[]") + 'tls = true\npasscode = "p"'
    check_refused(
        tmp_path,
        text + PROTOCOL,
        "peer[1]: roles is empty: a peer that may do nothing is an unknown peer",
        'peer[1]: host "*" is allowed for a peer with a certificate only',
        "peer[1]: tls is how we call the peer: it needs a port",
        "peer[1]: username is missing: a passcode needs one",
        "peer 'a': tls needs our own certificate: add the section [tls]",
    )


def test_passcode_is_never_shown() -> None:
    """STYLE 4.6: the effective configuration is logged, less secrets."""
    secret = peer(username="u", passcode="geheim")
    assert secret.read_passcode() == "geheim"
    config = Config(peer=(secret,))
    assert not [t for t in (repr(config), str(config), config.model_dump_json()) if "geheim" in t]
    assert (peer().has_passcode, secret.has_passcode) == (False, True)


# Who may talk to us


@pytest.mark.parametrize(
    ("host", "calling_ae", "address", "is_admitted"),
    [
        ("10.0.0.1", "SCANNER", "10.0.0.1", True),
        ("10.0.0.1", "SCANNER", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "SCANNER", "10.0.0.2", False),
        ("10.0.0.1", "SCANNER", "127.0.0.1", False),
        ("10.0.0.1", "scanner", "10.0.0.1", False),
        ("127.0.0.1", "SCANNER", "127.0.0.1", True),
        ("127.0.0.1", "SCANNER", "::1", True),
        ("localhost", "SCANNER", "127.0.0.1", True),
        ("127.0.0.1", "SCANNER", "10.0.0.1", False),
        ("::1", "SCANNER", "127.0.0.2", True),
        ("a" * 70, "SCANNER", "10.0.0.1", False),
        ("a..b", "SCANNER", "10.0.0.1", False),
    ],
)
def test_peer_is_admitted_by_ae_title_and_address(
    host: str, calling_ae: str, address: str, is_admitted: bool
) -> None:
    """DESIGN 7.7: an unknown peer can do nothing, and a host name that is none admits nobody."""
    assert peer(host=host).admits(calling_ae, address) is is_admitted


def test_peer_with_a_certificate_is_not_admitted_without_it() -> None:
    """Issue 4, 11: AE title and address alone do not show who it is."""
    pinned = peer(certificate="scanner.pem")
    assert not pinned.admits("SCANNER", "10.0.0.1")
    assert pinned.is_titled("SCANNER")
    assert pinned.is_at("10.0.0.1")
    assert peer(host="*", certificate="scanner.pem").is_at("2001:db8::1")


def test_peer_is_not_admitted_when_its_host_name_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that is away closes the door; it opens it to nobody."""

    def away(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    assert not peer(host="scanner.example").admits("SCANNER", "10.0.0.1")


def test_names_find_their_peer_and_protocol() -> None:
    """Names are unique; an unknown one is None."""
    config = Config(peer=(peer(),), protocol=(Protocol(name="p", targets=("x",)),))
    assert config.peer_named("a") == config.peer[0]
    assert config.protocol_named("p") == config.protocol[0]
    assert config.peer_named("p") is None
    assert config.protocol_named("a") is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104 - compared, not bound
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_recognised(host: str, expected: bool) -> None:
    """Only this machine is loopback."""
    assert is_loopback(host) is expected

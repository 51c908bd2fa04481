"""The stand-in TPS: who waits for its answers before stopping it cuts no sender off."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from node.config import Peer, Role
from node.delivery import InstanceOutcome, send_instances
from node.receiver import StandInReceiver
from tests.test_delivery import LONG_S, write_object


class HesitantReceiver(StandInReceiver):
    """Keeps an object and answers only when it is told to."""

    may_answer = threading.Event()

    def _keep(self, uid: str, content: bytes) -> None:
        super()._keep(uid, content)
        self.may_answer.wait(LONG_S)


def test_what_is_kept_counts_as_answered_only_when_the_answer_is_on_its_way(tmp_path: Path) -> None:
    path = write_object(tmp_path / "one.dcm", 1)
    with (
        HesitantReceiver(tmp_path / "kept", "TPS") as receiver,
        ThreadPoolExecutor(1) as pool,
    ):
        peer = Peer(
            name="tps", ae_title="TPS", host="127.0.0.1", port=receiver.port, roles=(Role.RECEIVE,)
        )
        sent = pool.submit(send_instances, peer, "HILUM", [path], timeout_s=LONG_S)
        assert receiver.wait_for(1, timeout_s=LONG_S)
        assert not receiver.wait_until_answered(timeout_s=0.0)
        receiver.may_answer.set()
        assert receiver.wait_until_answered(timeout_s=LONG_S)
        assert [answer.outcome for answer in sent.result()] == [InstanceOutcome.SENT]

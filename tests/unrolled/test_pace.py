"""How fast a training is and how long it waits for data; batches that a thread makes ahead."""

import threading
import time

import pytest
import torch
from network_cases import small_scan

from emrecon import unrolled
from emrecon.unrolled.training.loop import Mapped
from emrecon.unrolled.training.pace import Pace, ahead, n_samples


def test_batches_tell_how_many_samples_they_have():
    images = torch.zeros(5, 4, 4, 1)
    assert n_samples((torch.zeros(7, 3), images)) == 5
    assert n_samples(({"likelihood": small_scan()}, None)) == len(small_scan().data)
    assert n_samples(images[0]) == 1
    assert n_samples(object()) == 1


def test_waiting_and_work_are_told_apart():
    def slow():
        for _ in range(3):
            time.sleep(0.02)
            yield torch.zeros(4, 2)

    pace = Pace(n_ranks=2)
    for batch in pace.timed(slow()):
        pace.after_step(batch, 0.06)
    assert pace.samples == 24
    assert pace.waited >= 0.06
    assert 0 < pace.data_share < 1
    pace.reset()
    assert pace.samples_per_second != pace.samples_per_second


def test_records_and_logs_say_it(tmp_path):
    model = torch.nn.Linear(2, 2)
    settings = unrolled.Settings(4, 2, folder=tmp_path, watch="loss")
    pairs = [(torch.ones(3, 2), torch.zeros(3, 2))]
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    records = list(unrolled.train(model, lambda epoch: pairs, unrolled.Supervised(), adam, settings))
    assert all(record.samples_per_second > 0 and 0 <= record.data_share <= 1 for record in records)
    assert '"data_share"' in (tmp_path / "log.json").read_text()


def test_batches_come_ahead_in_their_order_and_errors_where_they_belong():
    made = []

    def items():
        for k in range(5):
            made.append(k)
            yield k
        raise ValueError("no more")

    found = ahead(items(), 2)
    assert next(found) == 0
    seen = [0]
    with pytest.raises(ValueError, match="no more"):
        seen.extend(found)
    assert made == [0, 1, 2, 3, 4]
    left = ahead(iter(range(1000)), 2)
    assert next(left) == 0
    left.close()
    assert not any(thread.name == "batches ahead" for thread in threading.enumerate())


def test_batches_that_were_used_are_not_made_again():
    made = []
    batches = Mapped(lambda epoch: [10 * epoch + k for k in range(4)], lambda batch: made.append(batch) or batch)
    assert list(batches.after(2, 3)) == [23]
    assert made == [23]

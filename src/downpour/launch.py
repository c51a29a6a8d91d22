"""Starting the processes of a run: always a torchrun job on a configuration that is already resolved."""

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from downpour.trainer import Hardware

log = logging.getLogger(__name__)


def launch(config: Mapping[str, Any], directory: Path, hardware: Hardware) -> int:
    """Run the ranks of this node to their end.

    Returns:
        0, or the exit code of the rank that failed first.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for noisy in ("torch.distributed.elastic", "torch.distributed.run", "torch.distributed.launcher"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    static = hardware.nodes > 1
    options = LaunchConfig(
        min_nodes=hardware.nodes,
        max_nodes=hardware.nodes,
        nproc_per_node=hardware.devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="static" if static else "c10d",
        rdzv_endpoint=f"{hardware.address}:{hardware.port or 0}" if static else "127.0.0.1:0",
        rdzv_configs={"rank": hardware.node_rank} if static else {},
        local_addr="127.0.0.1" if not static else None,
        max_restarts=0,
        monitor_interval=0.1,
    )
    source = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
    os.environ.setdefault("OMP_NUM_THREADS", str(hardware.threads or 1))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "config.yaml"
        file.write_text(yaml.safe_dump(dict(config)))
        try:
            elastic_launch(options, sys.executable)("-m", "downpour.worker", str(file), str(directory))
        except ChildFailedError as error:
            return max(1, error.get_first_failure()[1].exitcode)
    return 0

from __future__ import annotations

import pytest
from rpc_cluster import Cluster


@pytest.fixture(scope="session")
def cluster():
    cluster = Cluster()
    yield cluster
    codes, alive = cluster.stop()
    assert set(codes) == {0}
    assert alive == []


@pytest.fixture(scope="session")
def server(cluster, opencl_device):
    return cluster.start("local")

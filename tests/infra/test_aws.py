"""infra/aws: a cluster file that `ray up` takes, on machines that EC2 knows how to start."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler._private.aws.config import _configure_security_group, _configure_subnet
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The file as it is written."""
    written: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "aws" / "cluster.yaml").read_text())
    return written


def test_ray_takes_it(cluster: dict[str, Any]) -> None:
    """With Ray's defaults filled in, as `ray up` does; and refuses it misspelt."""
    validate_config(prepare_config(cluster))
    cluster["available_node_types"]["gpu"]["min_wokers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_wokers"):
        validate_config(prepare_config(cluster))


def test_nodes_install_nothing(cluster: dict[str, Any]) -> None:
    """With Ray's defaults filled in, which fetch a nightly build of Ray and need rights that our user lacks."""
    prepared = prepare_config(cluster)
    assert [prepared[f"{who}setup_commands"] for who in ("", "head_", "worker_")] == [[], [], []]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # The head's autoscaler imports it.
    assert any(requirement.startswith("boto3") for requirement in extras["cluster"])


def test_the_head_shares_what_prometheus_reads(cluster: dict[str, Any]) -> None:
    """Ray's list of nodes is in the container's /tmp/ray, and Prometheus outside; the image's user owns the folder."""
    prometheus = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yaml").read_text())
    ((read,),) = (scraped["file_sd_configs"][0]["files"] for scraped in prometheus["scrape_configs"])
    folder = str(Path(read).parent)
    assert f"--volume {folder}:{folder}" in cluster["docker"]["run_options"]
    (command,) = cluster["initialization_commands"]
    assert {folder, "/opt/models", "--owner"} <= set(command.split())


@pytest.mark.parametrize("node_type", ["head", "decode", "gpu"])
def test_ec2_takes_its_machines(cluster: dict[str, Any], node_type: str) -> None:
    """By the description of RunInstances that AWS publishes, which botocore carries; and instance types that exist."""
    written = dict(cluster["available_node_types"][node_type]["node_config"])
    # Ray takes one after the other of these, until there is a machine.
    subnets = written.pop("SubnetIds")
    request = {"MinCount": 1, "MaxCount": 1, "SubnetId": subnets[0], **written}
    model = botocore.session.get_session().get_service_model("ec2")
    report = ParamValidator().validate(request, model.operation_model("RunInstances").input_shape)
    assert not report.has_errors(), report.generate_report()
    assert request["InstanceType"] in model.shape_for("InstanceType").enum


def test_nothing_is_open(cluster: dict[str, Any]) -> None:
    """Token authentication, the job API on the head's loopback, SSH from inside, no metadata without a token."""
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert list(cluster["file_mounts"]) == ["~/.ray/auth_token"]
    (start,) = (command for command in cluster["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start
    assert cluster["provider"]["use_internal_ips"] is True
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["node_config"]["BlockDeviceMappings"])


def test_the_network_is_ours_and_not_rays(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own preparation, on a stand-in for EC2: it makes no group, changes none, and takes the private subnets."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with mock_aws():
        ec2 = boto3.resource("ec2", region_name=cluster["provider"]["region"])
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")
        # As the runbook makes them.
        group = vpc.create_security_group(GroupName="flashvid", Description="flashvid on Ray")
        group.authorize_ingress(IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id}]}])
        region = cluster["provider"]["region"]
        places = {f"{region}{zone}": f"10.0.{index}.0/24" for index, zone in enumerate("abc")}
        subnets = [vpc.create_subnet(CidrBlock=block, AvailabilityZone=zone).id for zone, block in places.items()]
        before = _rules(ec2)
        prepared = prepare_config(cluster)
        for node_type in prepared["available_node_types"].values():
            node = node_type["node_config"]
            assert (len(node["SecurityGroupIds"]), len(node["SubnetIds"])) == (1, len(subnets))
            node |= {"SecurityGroupIds": [group.id], "SubnetIds": subnets}
        prepared = _configure_security_group(_configure_subnet(prepared))
        assert _rules(ec2) == before
        assert "0.0.0.0/0" not in str(before[group.id])
        for node_type in prepared["available_node_types"].values():
            node = node_type["node_config"]
            assert (node["SecurityGroupIds"], node["SubnetIds"]) == ([group.id], subnets)


def _rules(ec2: Any) -> dict[str, Any]:
    """What every security group lets in."""
    return {group.id: group.ip_permissions for group in ec2.security_groups.all()}


def test_spot_workers_and_a_head_that_stays(cluster: dict[str, Any]) -> None:
    """Bounds of their own; the head, alone allowed to start machines, runs nothing."""
    nodes = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in nodes["head"]["node_config"]
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Arn"] for name, node in nodes.items()}
    assert len(set(profiles.values())) == 3
    # Where untrusted videos are opened, storage can only be read.
    assert [name for name, profile in profiles.items() if profile.endswith("/flashvid-storage-read")] == ["decode"]
    workers = [nodes["decode"], nodes["gpu"]]
    assert all(node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for node in workers)
    assert sum(node["max_workers"] for node in workers) <= cluster["max_workers"]
    assert [node["resources"].get("GPU", 0) for node in workers] == [0, 1]


def test_images_are_of_this_version(cluster: dict[str, Any]) -> None:
    """CUDA where the GPUs are."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cluster["docker"]["image"].endswith(f":{version}-cpu")
    assert cluster["available_node_types"]["gpu"]["docker"]["worker_image"].endswith(f":{version}-cuda")

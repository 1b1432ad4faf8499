"""The ready-made blocks of subgraphs/ are listed; tests/browser runs them."""

import json

from development import examples
from development.server import Server


def test_the_server_lists_every_block_of_the_folder_and_gives_its_file(server: Server) -> None:
    listed = {entry["name"]: key for key, entry in server.get_json("/global_subgraphs").items()
              if entry["info"]["node_pack"] == "custom_nodes.stylediffusion"}
    shipped = {path.stem: path for path in examples.BLOCKS.iterdir()}
    assert listed.keys() == shipped.keys() == {
        "Prompt to Prompt Image Edit (StyleDiffusion)"}
    for name, key in listed.items():
        given = json.loads(server.get_json(f"/global_subgraphs/{key}")["data"])
        assert given == examples.read(shipped[name])

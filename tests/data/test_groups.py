"""What the names of clips say: who and what is to be seen."""

from jax_irkd.data.groups import grouped, performances_of


def test_clips_of_cameras_side_by_side_are_one_performance():
    clips = [
        "S001C001P003R001A010",
        "S001C003P003R001A010",
        "S001C001P003R002A010",  # done again
        "S002C001P003R001A010",  # in another setup
        "S001C001P003R001A011",
        "0002-L-003",
        "0002-R-003",
        "0002-R-004",  # some action of the same recording
        "0003-R-003",
    ]
    names = ["a", "a", "b", "c", "d", "e", "e", "e", "f"]
    numbers = performances_of(clips).tolist()
    assert len(set(numbers)) == len(set(names)) == len(set(zip(names, numbers)))


def test_clips_of_other_names_are_a_performance_each():
    clips = ["test/wave/P002__T1", "test/wave/P002__T2", "xS001C001P003R001A010", "0002-L"]
    assert len(set(performances_of(clips).tolist())) == 4
    assert performances_of([]).shape == (0,)


def test_a_clip_of_another_name_leaves_its_neighbours_in_their_groups():
    ntu = [f"S001C001P{person:03d}R001A{action:03d}" for person in (1, 2, 4) for action in (1, 2)]
    for clips, kind, expected in [
        (ntu, "subjects", ["P001", "P001", "P002", "P002", "P004", "P004"]),
        (["0002-L-003", "0002-R-004"], "recordings", ["0002", "0002"]),
        (["wave/anna__1", "clap/anna__2"], "named subjects", ["anna", "anna"]),
        (["wave/1", "clap/1"], "clips", ["wave/1", "clap/1"]),
    ]:
        assert grouped(clips) == (kind, expected)
        if kind != "clips":
            odd = ["nobody/empty room", *clips]
            assert grouped(odd) == (kind, ["nobody/empty room", *expected])
    assert grouped([]) == ("clips", [])

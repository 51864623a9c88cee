from trm_fields import closest


def test_a_typo_gets_the_closest_name_and_the_list():
    assert closest("trn", ["trm", "ppo_clip"]) == "did you mean 'trm'? Known: 'ppo_clip', 'trm'"


def test_case_does_not_matter():
    assert closest("CHAINMATH", ["trm/ChainMath-v0", "ChainMath"]).startswith("did you mean 'ChainMath'")


def test_a_name_far_from_all_gets_the_list_alone():
    assert closest("zzz", ["trm"]) == "Known: 'trm'"


def test_no_names_at_all():
    assert closest("x", []) == "Known: none"

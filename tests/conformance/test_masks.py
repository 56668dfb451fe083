"""Masks that say more than padding: as untouched where nothing is dropped, refused by name where something is."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

import dycoke
from dycoke.stages.masks import padding_of
from tests.conformance import masks
from tests.conformance.cases import CACHE, FAMILIES, LENGTH, METHODS, Case, cache_of

TOLERANCE = {"atol": 2e-5, "rtol": 0}
HEADS = 4


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    return Case(request.param)


def assert_same(got: torch.Tensor, want: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(got, want, **TOLERANCE, msg=lambda text: f"{name}: {text}")


def kinds(length: int) -> dict[str, torch.Tensor]:
    """Every custom mask, bool and added, with a bias, by head, and the plain one in the numbers people hide with."""
    made = {each.__name__: each(length) for each in masks.CUSTOM}
    made |= {f"{name} added": masks.added(mask) for name, mask in list(made.items())[:3]}
    made |= {"bias": masks.biased(length, HEADS), "by head": masks.by_head(length, HEADS)}
    plain = masks.causal(length)
    made |= {"causal": plain, "half": masks.added(plain, -65504.0), "minus 1e9": masks.added(plain, -1e9)}
    made |= {"infinity": masks.added(plain, -float("inf")), "dict": {"full_attention": masks.packed(length)}}
    return made


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@torch.no_grad()
def test_a_prompt_with_a_mask_of_its_own(case, method):
    differ = 0
    for name, mask in kinds(case.length()).items():
        if name == "dict" and case.family == "llama":
            continue  # Llama takes no dict untouched
        for options in ({}, {"use_cache": False})[: 2 if name in ("packed", "causal") else 1]:
            want = case.model(**case.open(), attention_mask=mask, **options)
            with case.attached(method):
                got = case.model(**case.open(), attention_mask=mask, **options)
            torch.testing.assert_close(
                got.logits, want.logits, **TOLERANCE, msg=lambda text, name=name: f"{name} {text}"
            )
        step = case.step(cache_of(case.model(**case.open(), attention_mask=mask))).logits
        with case.attached(method):
            stepped = case.step(cache_of(case.model(**case.open(), attention_mask=mask))).logits
        assert_same(stepped, step, name)
        differ += (want.logits - case.model(**case.open()).logits).abs().max() > 1e-2
    assert differ >= len(masks.CUSTOM)  # or the comparison could not fail


@torch.no_grad()
def test_a_prompt_of_which_something_is_dropped_says_so(case):
    methods = [dycoke.build("fastv", k=1, r=0.5)]
    if case.family == "hf_video":
        methods.append(dycoke.build("random_drop", keep=0.5))
    for plan in methods:
        options = {"visual": case.visual} if case.bare else {}
        with dycoke.attach(case.model, plan, **options):
            want = case.model(**case.open()).logits
            for name, mask in kinds(case.length()).items():
                if name in ("causal", "half", "minus 1e9", "infinity"):
                    got = case.model(**case.open(), attention_mask=mask).logits
                    torch.testing.assert_close(got, want, **TOLERANCE)
                    continue
                with pytest.raises(ValueError, match=r"not causal attention with padding|accepts|expected"):
                    case.model(**case.open(), attention_mask=mask)


@torch.no_grad()
def test_llavas_compressor_works_before_the_mask():
    """Its rows are packed before anybody can mask them: a mask of what is left is honoured."""
    case = Case("llava")
    with dycoke.attach(case.model, dycoke.build("random_drop", keep=0.5)):
        shown = case.open()
        mask = masks.packed(shown["inputs_embeds"].shape[1])
        got = case.model(**shown, attention_mask=mask).logits
        fresh = DynamicCache(config=case.model.config)
        hidden = torch.ones(shown["inputs_embeds"].shape[:2], dtype=torch.long)
        hidden[:, 1] = 0
        holed = case.model(**case.open(), attention_mask=hidden, **{CACHE: fresh}).logits
    torch.testing.assert_close(got, case.model(**shown, attention_mask=mask).logits, **TOLERANCE)
    torch.testing.assert_close(holed, case.model(**shown, attention_mask=hidden).logits, **TOLERANCE)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@torch.no_grad()
def test_two_dimensions_with_holes_other_numbers_and_of_another_length(case, method):
    length = case.length()
    holed = torch.ones(1, length, dtype=torch.long)
    holed[:, [1, length - 3]] = 0
    for mask in (holed, holed.bool(), holed * 7, holed.float() * 0.5):
        want = case.model(**case.open(), attention_mask=mask)
        step = case.step(cache_of(want), attention_mask=torch.nn.functional.pad(mask, (0, 1), value=1)).logits
        with case.attached(method):
            got = case.model(**case.open(), attention_mask=mask)
            stepped = case.step(cache_of(got), attention_mask=torch.nn.functional.pad(mask, (0, 1), value=1)).logits
        torch.testing.assert_close(got.logits, want.logits, **TOLERANCE)
        torch.testing.assert_close(stepped, step, **TOLERANCE)
    for other in (
        torch.ones(1, length - 1),
        torch.ones(1, length + 2),
        torch.ones(3, length),
        torch.ones(1, 1, length),
    ):
        try:
            want = case.model(**case.open(), attention_mask=other).logits
        except (ValueError, RuntimeError, IndexError):
            want = None
        with case.attached(method):
            try:
                got = case.model(**case.open(), attention_mask=other).logits
            except ValueError as error:
                assert "attention_mask" in str(error)
            except (RuntimeError, IndexError):
                assert method["name"] == "full" and want is None
            else:
                torch.testing.assert_close(got, want, **TOLERANCE)


def steps(length: int) -> dict[str, torch.Tensor]:
    """Masks of a step behind a prompt: the first two show everything."""
    whole, fourth = torch.ones(1, length + 1, dtype=torch.long), torch.ones(1, 1, 1, length + 1, dtype=torch.bool)
    holed, hidden = whole.clone(), fourth.clone()
    holed[:, 2], hidden[..., 2] = 0, False
    biased = masks.added(fourth)
    biased[..., 1] = -0.7
    return {"whole": whole, "4-D": fourth, "holed": holed, "hidden": hidden, "bias": biased, "short": whole[:, :-1]}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@torch.no_grad()
def test_a_step_with_a_mask_of_its_own(case, method):
    told = torch.ones(1, case.length(), dtype=torch.long)
    unmasked = case.step(cache_of(case.model(**case.open()))).logits
    for name, mask in steps(case.length()).items():
        want = case.step(cache_of(case.model(**case.open(), attention_mask=told)), attention_mask=mask).logits
        with case.attached(method):
            cache = cache_of(case.model(**case.open(), attention_mask=told))
            if method["name"] != "full" and name in ("holed", "hidden", "bias", "short"):
                with pytest.raises(ValueError, match=r"attention_mask of shape .* in a decode step hides or shows"):
                    case.step(cache, attention_mask=mask)
                mask = None  # the request is none the worse
                want = unmasked
            got = case.step(cache, attention_mask=mask).logits
        assert_same(got, want, name)


@torch.no_grad()
def test_a_step_behind_a_mask_that_hides_columns_from_everybody():
    """Without a mask of its own it would see them untouched, and not with a method: it has to say."""
    case = Case("qwen2")
    mask, whole = masks.packed(LENGTH), torch.ones(1, LENGTH + 1, dtype=torch.long)
    mask[..., :2] = False
    whole[:, :2] = 0
    want = case.step(cache_of(case.model(**case.open(), attention_mask=mask)), attention_mask=whole).logits
    with case.attached(METHODS["keep_all"]):
        cache = cache_of(case.model(**case.open(), attention_mask=mask))
        with pytest.raises(ValueError, match="pass one that says whether the step sees them"):
            case.step(cache)
        with pytest.raises(ValueError, match="hides or shows other columns"):
            case.step(cache, attention_mask=torch.ones_like(whole))
        got = case.step(cache, attention_mask=whole).logits
    torch.testing.assert_close(got, want, **TOLERANCE)


@torch.no_grad()
def test_several_tokens_on_an_old_cache_with_a_mask_of_their_own(case):
    new, length = 4, case.length()
    mask = torch.nn.functional.pad(masks.packed(new), (length, 0), value=True)
    want = case.step(cache_of(case.model(**case.open())), count=new, attention_mask=mask).logits
    with case.attached(METHODS["full"]):
        got = case.step(cache_of(case.model(**case.open())), count=new, attention_mask=mask).logits
    torch.testing.assert_close(got, want, **TOLERANCE)
    with case.attached(METHODS["keep_all"]):
        cache = cache_of(case.model(**case.open()))
        with pytest.raises(ValueError, match="a step of 4 tokens"):
            case.step(cache, count=new, attention_mask=mask)


@torch.no_grad()
def test_steps_behind_a_shortened_prompt():
    """Their masks count the slots of before: what hides a dropped slot hides nothing, what hides another one does."""
    case = Case("hf_video")
    inputs = case.inputs
    padded = inputs["attention_mask"].clone()
    padded[:, 0] = 0
    with dycoke.attach(case.model, dycoke.build("dycoke", k=0.7, decode="off")):
        for prompt in (inputs["attention_mask"], padded):

            def prefilled(prompt=prompt):
                return cache_of(case.model(**inputs | {"attention_mask": prompt}))

            whole = torch.nn.functional.pad(prompt, (0, 1), value=1)
            want = case.step(prefilled(), attention_mask=whole).logits
            torch.testing.assert_close(case.step(prefilled()).logits, want, **TOLERANCE)
            fourth = whole.bool()[:, None, None]
            torch.testing.assert_close(case.step(prefilled(), attention_mask=fourth).logits, want, **TOLERANCE)
            holed = whole.clone()
            holed[:, 1] = 0  # text
            got = case.step(prefilled(), attention_mask=holed).logits
            assert (got - want).abs().max() > 1e-3
            with pytest.raises(ValueError, match="in a decode step hides more than the padding of the prompt"):
                case.step(prefilled(), attention_mask=holed.bool()[:, None, None])
        answer = case.generate(cache_implementation="static", batch=True)  # its masks are transformers' own
        assert torch.equal(answer, case.generate(batch=True))


@torch.no_grad()
def test_positions_of_packed_samples(case):
    """transformers looks for them where there is neither a mask nor a cache."""
    length = case.length()
    half = length // 2
    positions = torch.cat([torch.arange(half), torch.arange(length - half)])[None]
    for options in ({"use_cache": False}, {}):
        want = case.model(**case.open(), position_ids=positions, **options).logits
        for method in METHODS.values():
            with case.attached(method):
                got = case.model(**case.open(), position_ids=positions, **options).logits
            torch.testing.assert_close(got, want, **TOLERANCE)
    methods = [{"name": "fastv", "k": 1, "r": 0.5}]
    if case.family == "hf_video":
        methods += [{"name": "random_drop", "keep": 0.5, "positions": each} for each in ("packed", "original")]
    for method in methods:
        with case.attached(method), pytest.raises(ValueError, match="position_ids of several samples packed in a row"):
            case.model(**case.open(), position_ids=positions, use_cache=False)


@torch.no_grad()
def test_positions_of_packed_samples_under_gradient_checkpointing():
    """It leaves out the cache, and so lets transformers look for them."""
    case = Case("qwen2")
    case.model.train()
    case.model.gradient_checkpointing_enable()
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    with torch.enable_grad():
        want = case.model(**case.open(), position_ids=positions).logits
        with case.attached(METHODS["keep_all"]), pytest.warns(UserWarning, match="no cache to prune"):
            got = case.model(**case.open(), position_ids=positions).logits
    torch.testing.assert_close(got, want, **TOLERANCE)


def test_what_counts_as_padding():
    """Exactly: every row, every head, every number; in pieces as in one."""
    real = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1]]).bool()
    plain = masks.causal(8) & real[:, None, None]
    assert torch.equal(padding_of(plain, (1, 8)), real)
    for hidden in (-1e4, -65504.0, -float("inf"), torch.finfo(torch.bfloat16).min):
        assert torch.equal(padding_of(masks.added(plain, hidden), (1, 8)), real)
    unmasked = plain.clone()
    unmasked[..., :2, :] = True  # as transformers marks rows that would see nothing
    assert torch.equal(padding_of(unmasked, (1, 8)), real)
    wide = torch.nn.functional.pad(plain, (0, 5))
    assert torch.equal(padding_of(wide, (1, 8)), real)
    assert torch.equal(padding_of(plain.expand(1, 3, 8, 8), (4, 8)), real.expand(4, 8))
    for row in range(8):
        for column in range(8):
            other = plain.clone()
            other[..., row, column] ^= True
            alone = torch.equal(other[..., -1, :], plain[..., -1, :])
            assert not alone or padding_of(other, (1, 8)) is None
    bias, odd = masks.added(plain), plain.repeat(1, 2, 1, 1)
    bias[..., 5, 3], odd[:, 1, 4, 2] = -1.0, False
    assert padding_of(bias, (1, 8)) is None and padding_of(odd, (1, 8)) is None
    assert padding_of(torch.nn.functional.pad(plain, (0, 1), value=True), (1, 8)) is None
    assert padding_of(plain.long(), (1, 8)) is None and padding_of(plain[..., :1, :], (1, 8)) is None


@torch.no_grad()
def test_the_masks_of_generate_for_a_static_cache(case):
    for method in METHODS.values():
        want = case.generate(batch=True, cache_implementation="static")
        with case.attached(method):
            assert torch.equal(case.generate(batch=True, cache_implementation="static"), want)
    config = case.model.config.get_text_config()
    static = {CACHE: StaticCache(config=config, max_cache_len=case.length() + 8)}
    wide = torch.nn.functional.pad(masks.packed(case.length()), (0, 8))
    want = case.model(**case.open(), attention_mask=wide, **static).logits
    for method in METHODS.values():
        static = {CACHE: StaticCache(config=config, max_cache_len=case.length() + 8)}
        with case.attached(method):
            got = case.model(**case.open(), attention_mask=wide, **static).logits
        torch.testing.assert_close(got, want, **TOLERANCE)

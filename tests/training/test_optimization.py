import copy

import pytest
import torch
from transformers import Trainer

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM, RecommendationCollator
from hf_rec.training.arguments import RecommendationTrainingArguments
from hf_rec.training.optimization import SparseRowAdamW

BATCHES = [[3, 5, 5], [5], [9, 3]]


def train(sparse: bool, optimizer_class, batches, **kwargs) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    torch.manual_seed(0)
    table, layer = torch.nn.Embedding(12, 4, sparse=sparse), torch.nn.Linear(4, 1)
    parameters = (
        table.parameters() if optimizer_class is torch.optim.SparseAdam else [*table.parameters(), *layer.parameters()]
    )
    optimizer = optimizer_class(parameters, lr=0.1, **kwargs)
    for batch in batches:
        layer(table(torch.tensor(batch))).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if optimizer_class is torch.optim.SparseAdam:
            layer.zero_grad()
    return table.weight.detach(), optimizer


def test_rows_are_updated_as_adamw_updates_them_if_each_step_touches_all():
    batches = [[*range(12)], [*range(12), 4, 4], [*range(12), 7]]
    settings = {"weight_decay": 0.1, "betas": (0.8, 0.9)}
    sparse, optimizer = train(True, SparseRowAdamW, batches, **settings)
    dense, expected = train(False, torch.optim.AdamW, batches, **settings)
    torch.testing.assert_close(sparse, dense)
    torch.testing.assert_close(optimizer.state_dict()["state"], expected.state_dict()["state"])


def test_dense_gradients_are_those_of_adamw():
    assert torch.equal(
        train(False, SparseRowAdamW, BATCHES)[0], train(False, torch.optim.AdamW, BATCHES, weight_decay=0.01)[0]
    )


def test_untouched_rows_stay_and_moments_wait_as_in_sparse_adam():
    torch.manual_seed(0)
    table = torch.nn.Embedding(12, 4, sparse=True)
    other = copy.deepcopy(table)
    start = table.weight.detach().clone()
    one, two = (
        SparseRowAdamW(table.parameters(), lr=0.1, weight_decay=0.0),
        torch.optim.SparseAdam(other.parameters(), lr=0.1),
    )
    for batch in BATCHES:
        for embedding, optimizer in ((table, one), (other, two)):
            embedding(torch.tensor(batch)).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(table.weight, other.weight)
    untouched = [row for row in range(12) if row not in (3, 5, 9)]
    assert torch.equal(table.weight[untouched], start[untouched])


def test_gradients_of_several_backward_passes_add_up():
    torch.manual_seed(0)
    table = torch.nn.Embedding(12, 4, sparse=True)
    other = copy.deepcopy(table)
    one, two = SparseRowAdamW(table.parameters(), lr=0.1), SparseRowAdamW(other.parameters(), lr=0.1)
    for batch in BATCHES:
        table(torch.tensor(batch)).pow(2).sum().backward()
    other(torch.tensor(sum(BATCHES, []))).pow(2).sum().backward()
    one.step(), two.step()
    torch.testing.assert_close(table.weight, other.weight)
    table(torch.tensor([1])).sum().backward()
    one.zero_grad()
    after = table.weight.detach().clone()
    one.step()
    assert torch.equal(table.weight, after)


def test_of_two_optimisers_the_last_one_updates():
    table = torch.nn.Embedding(12, 4, sparse=True)
    before = table.weight.detach().clone()
    first, second = (SparseRowAdamW(table.parameters(), lr=0.1) for _ in range(2))
    table(torch.tensor([3])).sum().backward()
    first.step()
    assert torch.equal(table.weight, before)
    second.step()
    assert (table.weight != before).any(1).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("loss_type", ["sampled_softmax", "gbce"])
def test_the_trainer_runs_it_clips_the_rest_and_resumes_to_the_same_weights(tokenizer, tmp_path, loss_type):
    rows = [{"input_ids": list(range(3, 3 + length))} for length in (2, 8, 3, 7, 5, 4, 6, 1)]

    def run(steps: int, resume: bool) -> Bert4RecForMaskedLM:
        torch.manual_seed(0)
        sizes = {"max_position_embeddings": 8, "hidden_size": 16, "intermediate_size": 32}
        config = Bert4RecConfig(vocab_size=len(tokenizer), **sizes, loss_type=loss_type, num_negatives=5)
        model = Bert4RecForMaskedLM(config)
        model.items.sparse_gradients = True
        args = RecommendationTrainingArguments(
            tmp_path,
            per_device_train_batch_size=8,
            max_steps=steps,
            weight_decay=0.1,
            lr_scheduler_type="constant",
            warmup_steps=0,
            eval_strategy="no",
            save_steps=2,
            save_total_limit=None,
            load_best_model_at_end=False,
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            args,
            train_dataset=rows,
            data_collator=RecommendationCollator(config),
            optimizer_cls_and_kwargs=(SparseRowAdamW, {"lr": 0.01}),
        )
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = run(4, False)
    torch.manual_seed(5)
    resumed = run(4, str(tmp_path / "checkpoint-2"))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)

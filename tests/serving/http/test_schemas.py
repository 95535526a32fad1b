"""The schemas accept what the service sends, and document every member of it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from reslink.inference.prediction import Prediction
from reslink.serving.http import problems, schemas

SCHEMAS = [value for value in vars(schemas).values() if isinstance(value, type) and value.__module__ == schemas.__name__]


def test_a_problem_is_documented_member_by_member() -> None:
    problem = problems.too_large("The body has 9 bytes", "8 bytes").as_dict()
    assert schemas.ProblemDetails.model_validate(problem, extra="forbid").model_dump(exclude_unset=True) == problem


def test_a_prediction_is_documented_member_by_member() -> None:
    prediction = Prediction("a.png", None, "Tumor", 0.75, {"Healthy": 0.25, "Tumor": 0.75})
    sent = {name: value for name, value in prediction.as_dict().items() if name in schemas.SliceAnswer.model_fields}
    assert schemas.SliceAnswer.model_validate({**sent, "slice": 0}, extra="forbid").label == "Tumor"
    with pytest.raises(ValidationError, match="probability"):
        schemas.SliceAnswer.model_validate({**sent, "slice": 0, "probability": "high"})


def test_the_notice_is_in_every_answer() -> None:
    for model in (schemas.Predictions, schemas.Explanations, schemas.Views, schemas.Models):
        assert model.model_fields["notice"].default == "Research use only. Not a medical device; not for diagnosis."


@pytest.mark.parametrize("model", SCHEMAS, ids=lambda model: model.__name__)
def test_the_examples_fit_their_fields(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        for example in field.examples or ():
            model.__pydantic_validator__.validate_assignment(model.model_construct(), name, example)

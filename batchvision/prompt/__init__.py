"""Prompts: templates, examples, answer schema and labels; the messages of a request; the check of an answer.

Pure: no files, no network. The constant part of the messages is made once per recipe. Image base64 never passes through
a JSON encoder.
"""

from __future__ import annotations

from batchvision.prompt.answer import (
    LABEL,
    REASONING_COLUMN,
    AnswerColumn,
    SpecInvalid,
    answer_columns,
    build_answer_spec,
    column_name,
    response_format,
)
from batchvision.prompt.check import check_answer, is_deeper, names_fallback
from batchvision.prompt.conversation import Conversation, schema_instruction, system_text, with_final_text
from batchvision.prompt.spoken import thoughts_in
from batchvision.prompt.template import ColumnField, Template, TemplateError, joined

__all__ = [
    "LABEL",
    "REASONING_COLUMN",
    "AnswerColumn",
    "ColumnField",
    "Conversation",
    "SpecInvalid",
    "Template",
    "TemplateError",
    "answer_columns",
    "build_answer_spec",
    "check_answer",
    "column_name",
    "is_deeper",
    "joined",
    "names_fallback",
    "response_format",
    "schema_instruction",
    "system_text",
    "thoughts_in",
    "with_final_text",
]

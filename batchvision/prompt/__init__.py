"""Prompts: templates, examples, answer schema and labels, and from them the chat messages of one request.

Pure: no files, no network. Rule: what is sent is made here once per recipe; per row only the row's own text and images
are added, and an image's base64 never passes through a JSON encoder.
"""

from __future__ import annotations

from batchvision.prompt.answer import (
    REASONING_COLUMN,
    AnswerColumn,
    SpecInvalid,
    answer_columns,
    build_answer_spec,
    column_name,
    response_format,
    schema_instruction,
)
from batchvision.prompt.check import CheckedAnswer, check_answer, names_fallback
from batchvision.prompt.conversation import Conversation, system_text, with_final_text
from batchvision.prompt.nesting import is_deeper
from batchvision.prompt.spoken import thoughts_in
from batchvision.prompt.template import ColumnField, Template, TemplateError, joined

__all__ = [
    "REASONING_COLUMN",
    "AnswerColumn",
    "CheckedAnswer",
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

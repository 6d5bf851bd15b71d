//! The table of families, each told by what its chat templates say.
//!
//! A family is added by adding a row here, a folder of fixtures and a line in the docs. Where each
//! form is described stands in `fixtures/README.md`.

use super::family::{Call, Family, ForcedForm, Form, Ids, ThoughtMarks};

/// The marks of thoughts, the most specific first.
pub(super) const THOUGHTS: [ThoughtMarks; 3] = [
    ThoughtMarks {
        open: "<think>",
        close: "</think>",
    },
    ThoughtMarks {
        open: "[THINK]",
        close: "[/THINK]",
    },
    ThoughtMarks {
        open: "<|channel>thought\n",
        close: "<channel|>",
    },
];

/// In the order in which they are told: what has the more particular signs comes first.
pub(crate) const FAMILIES: [&Family; 13] = [
    &HARMONY,
    &GEMMA_4,
    &FUNCTION_GEMMA,
    &DEEPSEEK_FENCED,
    &DEEPSEEK,
    &QWEN_CODER,
    &MISTRAL_NAMED,
    &MISTRAL,
    &PHI,
    &HERMES,
    &PYTHONIC,
    &TOOL_CODE,
    &LLAMA,
];

const USUAL: Family = Family {
    name: "",
    signs: &[],
    forms: &[],
    forced: None,
    ids: Ids::Usual,
    is_channelled: false,
    marks: &[],
};

const OBJECT: Form = Form {
    opens: &[],
    close: "",
    call: Call::Object,
    is_careful: false,
};

const NAMED: ForcedForm = ForcedForm {
    block: ("", ""),
    before: "",
    between: "",
    after: "",
    joint: Some(""),
    is_quoted: false,
};

/// `{"name": "f", "arguments": {…}}`.
const WRITTEN: ForcedForm = ForcedForm {
    before: "{\"name\": ",
    between: ", \"arguments\": ",
    after: "}",
    joint: Some(", "),
    is_quoted: true,
    ..NAMED
};

const TAGGED_OBJECT: Form = Form {
    opens: &["<tool_call>"],
    close: "</tool_call>",
    ..OBJECT
};

const TAGGED: ForcedForm = ForcedForm {
    before: "<tool_call>\n{\"name\": ",
    after: "}\n</tool_call>",
    joint: Some("\n"),
    ..WRITTEN
};

/// An object and nothing else, with or without a fence.
const BARE_OBJECT: Form = Form {
    opens: &["", "```json"],
    close: "```",
    is_careful: true,
    ..OBJECT
};

/// `<function=f>{…}</function>`, which Llama 3.x was taught beside its objects.
const FUNCTION_TAG: Form = Form {
    opens: &["<function="],
    call: Call::Named {
        before: "<function=",
        kind: "",
        id: "",
        between: &[">"],
        after: &["</function>"],
    },
    is_careful: true,
    ..OBJECT
};

/// Nothing but text.
pub(super) static PLAIN: Family = Family {
    name: "plain",
    ..USUAL
};

/// A template that shows tools in no way known here: the model has its form from the template's
/// words, and what is common is tried.
pub(super) static GENERIC: Family = Family {
    name: "generic",
    forms: &[TAGGED_OBJECT, BARE_OBJECT, FUNCTION_TAG],
    forced: Some(TAGGED),
    ..USUAL
};

pub(crate) static HERMES: Family = Family {
    name: "hermes",
    signs: &[&["<tool_call>"]],
    forms: &[TAGGED_OBJECT],
    forced: Some(TAGGED),
    ..USUAL
};

static QWEN_CODER: Family = Family {
    name: "qwen3-coder",
    signs: &[&["<tool_call>", "<function=", "<parameter="]],
    forms: &[
        Form {
            opens: &["<tool_call>", "<function="],
            close: "</tool_call>",
            call: Call::Tags,
            is_careful: false,
        },
        TAGGED_OBJECT,
    ],
    // Not in the tags: what a schema says of a text could not be held to between them.
    forced: Some(TAGGED),
    ..USUAL
};

static LLAMA: Family = Family {
    name: "llama3",
    signs: &[
        &["<|python_tag|>"],
        &["\"parameters\": dictionary of argument name and its value"],
        &["<|start_header_id|>", "tools"],
    ],
    forms: &[
        Form {
            opens: &["<|python_tag|>"],
            ..OBJECT
        },
        Form {
            opens: &["<|python_tag|>"],
            call: Call::Python,
            is_careful: true,
            ..OBJECT
        },
        BARE_OBJECT,
        FUNCTION_TAG,
    ],
    forced: Some(ForcedForm {
        between: ", \"parameters\": ",
        joint: None,
        ..WRITTEN
    }),
    ..USUAL
};

static PYTHONIC: Family = Family {
    name: "pythonic",
    signs: &[&["[func_name1("], &["<|python_start|>"]],
    forms: &[
        Form {
            opens: &["<|python_start|>"],
            close: "<|python_end|>",
            call: Call::Python,
            is_careful: false,
        },
        Form {
            opens: &[""],
            call: Call::Python,
            is_careful: true,
            ..OBJECT
        },
    ],
    ..USUAL
};

static TOOL_CODE: Family = Family {
    name: "gemma3",
    signs: &[&["tool_code"]],
    forms: &[
        Form {
            opens: &["```tool_code"],
            close: "```",
            call: Call::Python,
            is_careful: true,
        },
        Form {
            opens: &[""],
            call: Call::Python,
            is_careful: true,
            ..OBJECT
        },
        BARE_OBJECT,
    ],
    ..USUAL
};

static FUNCTION_GEMMA: Family = Family {
    name: "functiongemma",
    signs: &[&["<start_function_call>"]],
    forms: &[Form {
        opens: &["<start_function_call>"],
        close: "<end_function_call>",
        call: Call::Braces { quote: "<escape>" },
        is_careful: false,
    }],
    ..USUAL
};

static GEMMA_4: Family = Family {
    name: "gemma4",
    signs: &[&["<|tool_call>"]],
    forms: &[Form {
        opens: &["<|tool_call>"],
        close: "<tool_call|>",
        call: Call::Braces { quote: "<|\"|>" },
        is_careful: false,
    }],
    // The mark of a thought is two words, of which one is a token.
    marks: &["<|channel>", "<channel|>"],
    ..USUAL
};

/// Before its eleventh tokenizer: a list of objects after one mark.
static MISTRAL: Family = Family {
    name: "mistral",
    signs: &[&["[TOOL_CALLS]"]],
    forms: &[MISTRAL_LIST, MISTRAL_ARGS],
    forced: Some(ForcedForm {
        block: ("[TOOL_CALLS][", "]"),
        ..WRITTEN
    }),
    ids: Ids::Nine,
    ..USUAL
};

static MISTRAL_NAMED: Family = Family {
    name: "mistral-args",
    signs: &[&["[TOOL_CALLS]", "[ARGS]"]],
    forms: &[MISTRAL_ARGS, MISTRAL_LIST],
    forced: Some(ForcedForm {
        before: "[TOOL_CALLS]",
        between: "[ARGS]",
        ..NAMED
    }),
    ids: Ids::Nine,
    ..USUAL
};

const MISTRAL_LIST: Form = Form {
    opens: &["[TOOL_CALLS]"],
    ..OBJECT
};

const MISTRAL_ARGS: Form = Form {
    opens: &["[TOOL_CALLS]"],
    call: Call::Named {
        before: "[TOOL_CALLS]",
        kind: "",
        id: "[CALL_ID]",
        between: &["[ARGS]"],
        after: &[],
    },
    ..OBJECT
};

/// Phi-4-mini and, with the first mark only, Granite 3.
static PHI: Family = Family {
    name: "phi4",
    signs: &[&["<|tool_call|>"], &["<|tool|>"], &["functools["]],
    forms: &[
        Form {
            opens: &["<|tool_call|>", "functools"],
            close: "<|/tool_call|>",
            ..OBJECT
        },
        TAGGED_OBJECT,
    ],
    forced: Some(ForcedForm {
        block: ("<|tool_call|>[", "]<|/tool_call|>"),
        ..WRITTEN
    }),
    ..USUAL
};

/// V3 and R1: the arguments in a fence.
static DEEPSEEK_FENCED: Family = Family {
    name: "deepseek-v3",
    signs: &[&["<｜tool▁calls▁begin｜>", "```json"]],
    forms: &[DEEPSEEK_FORM],
    forced: Some(ForcedForm {
        block: ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        before: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        between: "\n```json\n",
        after: "\n```<｜tool▁call▁end｜>",
        joint: Some("\n"),
        ..NAMED
    }),
    ..USUAL
};

/// V3.1.
static DEEPSEEK: Family = Family {
    name: "deepseek-v3.1",
    signs: &[&["<｜tool▁calls▁begin｜>"]],
    forms: &[DEEPSEEK_FORM],
    forced: Some(ForcedForm {
        block: ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        before: "<｜tool▁call▁begin｜>",
        between: "<｜tool▁sep｜>",
        after: "<｜tool▁call▁end｜>",
        ..NAMED
    }),
    ..USUAL
};

const DEEPSEEK_FORM: Form = Form {
    opens: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
    close: "<｜tool▁calls▁end｜>",
    call: Call::Named {
        before: "<｜tool▁call▁begin｜>",
        kind: "function<｜tool▁sep｜>",
        id: "",
        between: &["<｜tool▁sep｜>", "\n```json\n"],
        after: &["<｜tool▁call▁end｜>", "```<｜tool▁call▁end｜>"],
    },
    is_careful: false,
};

/// gpt-oss.
static HARMONY: Family = Family {
    name: "harmony",
    signs: &[&["<|channel|>", "<|message|>"]],
    forms: &[Form {
        call: Call::Message,
        ..OBJECT
    }],
    forced: Some(ForcedForm {
        before: "<|channel|>commentary to=functions.",
        between: " <|constrain|>json<|message|>",
        joint: None,
        ..NAMED
    }),
    is_channelled: true,
    marks: &[
        "<|start|>",
        "<|channel|>",
        "<|constrain|>",
        "<|message|>",
        "<|end|>",
        "<|call|>",
        "<|return|>",
    ],
    ..USUAL
};

//! What a template may spend.
//!
//! The engine's fuel counts instructions, and one instruction may double a string or walk a value
//! that contains itself a million times. So every operator, filter and method that makes text or
//! containers is replaced by one that counts what it makes against a budget of the rendering, and
//! that refuses containers deeper than [`DEPTH_MAX`]. Replacing is done on the compiled
//! instructions, each by a call of a filter that takes and leaves the same number of values.

use std::cell::{Cell, RefCell};
use std::sync::LazyLock;

use domain::TemplateError;
use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Expression, State, Value, context};

/// What one rendering may spend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// All text it makes, intermediate text included, in bytes; an item of a container it builds
    /// counts as [`ITEM_BYTES`]. The default is sixteen times the largest body, since templates copy
    /// what they print a few times.
    pub made_bytes_max: usize,
    /// Instructions. A message takes some hundred.
    pub fuel_max: u64,
    /// One instruction may print one stretch of the template's own text, so long stretches leave
    /// fewer instructions: together at most about this much.
    pub raw_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            made_bytes_max: 64 * 1024 * 1024,
            fuel_max: 2_000_000,
            raw_bytes_max: 256 * 1024 * 1024,
        }
    }
}

const ITEM_BYTES: usize = 128;

/// Containers nested deeper are refused.
pub(super) const DEPTH_MAX: usize = 48;

/// Namespaces in a rendering.
const NAMESPACES_MAX: usize = 1_000;

/// Instructions left to a template however long its stretches are.
const FUEL_MIN: u64 = 1_000;

/// Why a rendering was ended by its environment.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Breach {
    #[error("the template raised an exception")]
    Raised(String),
    #[error("out of bounds: {0}")]
    Bound(&'static str),
}

impl From<Breach> for Error {
    fn from(breach: Breach) -> Self {
        Error::new(ErrorKind::InvalidOperation, "the rendering was ended").with_source(breach)
    }
}

thread_local! {
    /// What the rendering on this thread may still spend.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// The namespaces it has made. They alone can change, and so hold themselves.
    static NAMESPACES: RefCell<Vec<Value>> = const { RefCell::new(Vec::new()) };
}

/// One rendering's budget, from its start to the drop. A rendering stays on its thread.
pub(super) struct Meter(());

impl Meter {
    pub fn start(bounds: Bounds) -> Self {
        LEFT.set(bounds.made_bytes_max);
        Self(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        LEFT.set(0);
        NAMESPACES.take();
    }
}

/// Takes `bytes` from the budget.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    match LEFT.get().checked_sub(bytes) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(Breach::Bound("text made").into()),
    }
}

fn charge_value(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => charge(text.len()),
        None => walk(value, 0),
    }
}

/// Visits everything in a container once for each way to it, counting, so that whoever prints,
/// compares or copies it afterwards does bounded work.
fn walk(value: &Value, depth: usize) -> Result<(), Error> {
    charge(ITEM_BYTES)?;
    let is_map = match value.kind() {
        ValueKind::Map => true,
        ValueKind::Seq | ValueKind::Iterable => false,
        _ => return Ok(()),
    };
    if depth == DEPTH_MAX {
        return Err(Breach::Bound("depth").into());
    }
    for item in value.try_iter()? {
        let inner = if is_map { value.get_item(&item)? } else { item };
        walk(&inner, depth + 1)?;
    }
    Ok(())
}

/// What printing the value makes.
fn charge_printed(value: &Value) -> Result<(), Error> {
    charge_value(value)?;
    match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => charge_texts(value),
        _ => Ok(()),
    }
}

/// The strings in a container that was walked before.
fn charge_texts(value: &Value) -> Result<(), Error> {
    let is_map = match value.kind() {
        ValueKind::Map => true,
        ValueKind::Seq | ValueKind::Iterable => false,
        _ => return charge(value.as_str().map_or(ITEM_BYTES, str::len)),
    };
    for item in value.try_iter()? {
        if is_map {
            charge(item.as_str().map_or(ITEM_BYTES, str::len))?;
            charge_texts(&value.get_item(&item)?)?;
        } else {
            charge_texts(&item)?;
        }
    }
    Ok(())
}

/// Refuses `"a" * 1000000`, which the compiler would work out before any budget is in force.
pub(super) fn refuse_folded_repetition(
    source: &str,
    syntax: &SyntaxConfig,
) -> Result<(), TemplateError> {
    let mut before: Option<bool> = None;
    let mut is_after_times = false;
    for token in tokenize(source, false, syntax.clone()) {
        let Ok((token, span)) = token else {
            return Ok(()); // The compiler reports it, with its line.
        };
        let line = usize::from(span.start_line);
        let may_be_text = |opens: bool| match &token {
            Token::Str(_) | Token::String(_) => true,
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => opens,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => !opens,
            _ => false,
        };
        if is_after_times && may_be_text(true) {
            return Err(TemplateError::Malformed { line });
        }
        is_after_times = matches!(token, Token::Mul | Token::Pow);
        if is_after_times && before == Some(true) {
            return Err(TemplateError::Malformed { line });
        }
        before = Some(may_be_text(false));
    }
    Ok(())
}

/// How many instructions the template may run.
pub(super) fn fuel(compiled: &CompiledTemplate<'_>, bounds: Bounds) -> u64 {
    let longest = std::iter::once(&compiled.instructions)
        .chain(compiled.blocks.values())
        .map(longest_raw)
        .max()
        .unwrap_or(0);
    let affordable = bounds.raw_bytes_max / (longest as u64).max(1);
    affordable.max(FUEL_MIN).min(bounds.fuel_max)
}

fn longest_raw(instructions: &Instructions<'_>) -> usize {
    let mut longest = 0;
    let mut at = 0;
    while let Some(instruction) = instructions.get(at) {
        if let Instruction::EmitRaw(text) = instruction {
            longest = longest.max(text.len());
        }
        at += 1;
    }
    longest
}

/// The engine looks filters up by name where the cached index is this.
const NOT_CACHED: u8 = u8::MAX;

/// Replaces the instructions that make text or containers.
pub(super) fn install(instructions: &mut Instructions<'_>) -> Result<(), TemplateError> {
    let too_long = |count: usize| {
        u16::try_from(count).map_err(|_| TemplateError::OutOfBounds("items in a literal"))
    };
    let mut at = 0;
    while let Some(instruction) = instructions.get_mut(at) {
        let (name, takes) = match instruction {
            Instruction::Add => ("metered_add", 2),
            Instruction::Mul => ("metered_mul", 2),
            Instruction::Pow => ("metered_pow", 2),
            Instruction::Rem => ("metered_rem", 2),
            Instruction::StringConcat => ("metered_concat", 2),
            Instruction::Slice => ("metered_slice", 4),
            Instruction::Eq => ("metered_eq", 2),
            Instruction::Ne => ("metered_ne", 2),
            Instruction::In => ("metered_in", 2),
            Instruction::Lt => ("metered_lt", 2),
            Instruction::Lte => ("metered_lte", 2),
            Instruction::Gt => ("metered_gt", 2),
            Instruction::Gte => ("metered_gte", 2),
            Instruction::CompareAndPreserve(_) => {
                return Err(TemplateError::OutOfBounds("chained comparisons"));
            }
            Instruction::BuildList(Some(count)) => ("metered_list", too_long(*count)?),
            Instruction::BuildTuple(Some(count)) => ("metered_list", too_long(*count)?),
            Instruction::BuildMap(count) => ("metered_map", too_long(2 * *count)?),
            _ => {
                at += 1;
                continue;
            }
        };
        *instruction = Instruction::ApplyFilter(name, Some(takes), NOT_CACHED);
        at += 1;
    }
    Ok(())
}

/// An operator of the language itself, applied to two values.
struct Operator(Expression<'static, 'static>);

impl Operator {
    fn new(source: &'static str) -> Self {
        Self(
            BUILT_IN
                .compile_expression(source)
                .expect("a constant expression"),
        )
    }

    fn apply(&self, a: Value, b: Value) -> Result<Value, Error> {
        self.0.eval(context! { a, b })
    }
}

/// The language as it is, to borrow its operators and filters from.
static BUILT_IN: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment
});
static ADD: LazyLock<Operator> = LazyLock::new(|| Operator::new("a + b"));
static MUL: LazyLock<Operator> = LazyLock::new(|| Operator::new("a * b"));
static POW: LazyLock<Operator> = LazyLock::new(|| Operator::new("a ** b"));
static REM: LazyLock<Operator> = LazyLock::new(|| Operator::new("a % b"));
static CONCAT: LazyLock<Operator> = LazyLock::new(|| Operator::new("a ~ b"));
static EQ: LazyLock<Operator> = LazyLock::new(|| Operator::new("a == b"));
static IN: LazyLock<Operator> = LazyLock::new(|| Operator::new("a in b"));
static LT: LazyLock<Operator> = LazyLock::new(|| Operator::new("a < b"));
static SLICE: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| {
    BUILT_IN
        .compile_expression("value[start:stop:step]")
        .expect("a constant expression")
});

/// Filters that make at most a few times what they are given.
const FILTERS: [&str; 36] = [
    "abs",
    "attr",
    "bool",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "int",
    "items",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "trim",
    "unique",
    "upper",
];

/// Filters that a template may hand to `map` by name.
const MAPPED: [&str; 14] = [
    "abs",
    "bool",
    "capitalize",
    "first",
    "float",
    "int",
    "last",
    "length",
    "list",
    "lower",
    "string",
    "title",
    "trim",
    "upper",
];

/// A filter that is not there at all: its output may be many times its input, and no template in
/// use asks for it.
const REMOVED: [&str; 8] = [
    "batch",
    "chain",
    "format",
    "groupby",
    "pprint",
    "slice",
    "urlencode",
    "zip",
];

/// The language with every maker of text or containers replaced.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        charge_printed(value)?;
        minijinja::escape_formatter(out, state, value)
    });
    for name in REMOVED {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
    for name in FILTERS {
        environment.add_filter(name, move |args: Args| metered(name, &args.into_values()));
    }
    for name in ["dict", "namespace"] {
        let make = BUILT_IN.empty_state().lookup(name);
        let make = make.expect("the language has the function");
        environment.add_function(name, move |state: &mut State<'_, '_>, args: Args| {
            let value = make.call(state, &args.into_values())?;
            walk(&value, 0)?;
            if name == "namespace" {
                remember_namespace(value.clone())?;
            }
            Ok::<Value, Error>(value)
        });
    }
    environment.add_filter("map", map);
    environment.add_filter("join", join);
    environment.add_filter("replace", |text: &str, from: &str, to: &str| {
        replace(text, from, to, None)
    });
    environment.add_filter("indent", indent);
    for name in ["eq", "equalto", "==", "ne", "!=", "in"] {
        environment.add_test(name, move |a: Value, b: Value| compared(name, a, b));
    }
    operators(&mut environment);
    environment
}

/// What one look at all namespaces may cost, apart from the budget: legitimate ones hold little.
const LOOK_BYTES: usize = 1_000_000 * ITEM_BYTES;

/// Setting an attribute is the one way to nest that no instruction here sees, so what was nested is
/// seen at the next chance: a chain grows by one namespace at most between two looks.
fn remember_namespace(made: Value) -> Result<(), Error> {
    NAMESPACES.with_borrow_mut(|namespaces| {
        if namespaces.len() == NAMESPACES_MAX {
            return Err(Breach::Bound("namespaces").into());
        }
        let left = LEFT.replace(LOOK_BYTES);
        let walked = namespaces
            .iter()
            .try_for_each(|namespace| walk(namespace, 0));
        LEFT.set(left);
        namespaces.push(made);
        walked
    })
}

fn operators(environment: &mut Environment<'static>) {
    environment.add_filter("metered_add", |a: Value, b: Value| made(&ADD, a, b));
    environment.add_filter("metered_mul", multiplied);
    environment.add_filter("metered_pow", |a: Value, b: Value| made(&POW, a, b));
    environment.add_filter("metered_rem", |a: Value, b: Value| made(&REM, a, b));
    environment.add_filter("metered_concat", |a: Value, b: Value| {
        charge_printed(&a)?;
        charge_printed(&b)?;
        CONCAT.apply(a, b)
    });
    environment.add_filter("metered_slice", sliced);
    for (name, test) in [
        ("metered_eq", "eq"),
        ("metered_ne", "ne"),
        ("metered_in", "in"),
        ("metered_lt", "lt"),
        ("metered_lte", "lte"),
        ("metered_gt", "gt"),
        ("metered_gte", "gte"),
    ] {
        environment.add_filter(name, move |a: Value, b: Value| compared(test, a, b));
    }
    environment.add_filter("metered_list", |items: Rest<Value>| {
        let list = Value::from(items.to_vec());
        walk(&list, 0).map(|()| list)
    });
    environment.add_filter("metered_map", |items: Rest<Value>| {
        let pairs = items.chunks_exact(2);
        let map = Value::from_pairs(pairs.map(|pair| (pair[0].clone(), pair[1].clone())));
        walk(&map, 0).map(|()| map)
    });
}

fn made(operator: &Operator, a: Value, b: Value) -> Result<Value, Error> {
    // Text grows by what is added; a longer operand is counted before the two are joined.
    charge(a.as_str().map_or(0, str::len) + b.as_str().map_or(0, str::len))?;
    let value = operator.apply(a, b)?;
    if value.as_str().is_none() {
        walk(&value, 0)?;
    }
    Ok(value)
}

/// Repetition of a text or list costs its length before it is made.
fn multiplied(a: Value, b: Value) -> Result<Value, Error> {
    let repeated = |value: &Value, times: &Value| {
        let times = times.as_usize().unwrap_or(0);
        let length = value.len().unwrap_or(0);
        charge(length.saturating_mul(4).saturating_mul(times))
    };
    if !a.is_number() {
        repeated(&a, &b)?;
    }
    if !b.is_number() {
        repeated(&b, &a)?;
    }
    made(&MUL, a, b)
}

fn sliced(value: Value, start: Value, stop: Value, step: Value) -> Result<Value, Error> {
    charge(value.as_str().map_or(0, str::len))?;
    let slice = SLICE.eval(context! { value, start, stop, step })?;
    if slice.as_str().is_none() {
        walk(&slice, 0)?;
    }
    Ok(slice)
}

/// Containers are walked before they are compared, so that none that holds itself is.
fn compared(test: &'static str, a: Value, b: Value) -> Result<bool, Error> {
    for value in [&a, &b] {
        if !matches!(value.kind(), ValueKind::String | ValueKind::Number) {
            walk(value, 0)?;
        }
    }
    let verdict = match test {
        "in" => IN.apply(a, b)?.is_true(),
        "ne" | "!=" => !EQ.apply(a, b)?.is_true(),
        "lt" => LT.apply(a, b)?.is_true(),
        "gt" => LT.apply(b, a)?.is_true(),
        "lte" => !LT.apply(b, a)?.is_true(),
        "gte" => !LT.apply(a, b)?.is_true(),
        _ => EQ.apply(a, b)?.is_true(),
    };
    Ok(verdict)
}

/// Arguments as they stand in the call, keywords included.
type Args = Rest<ValueOrKwargs>;

fn metered(name: &str, args: &[Value]) -> Result<Value, Error> {
    let compares = matches!(
        name,
        "dictsort" | "max" | "min" | "sort" | "string" | "unique"
    );
    if let Some(first) = args.first().filter(|_| compares) {
        charge_printed(first)?;
    }
    let value = BUILT_IN.empty_state().apply_filter(name, args)?;
    if let Some(text) = value.as_str() {
        charge(text.len())?;
    }
    Ok(value)
}

fn map(args: Args) -> Result<Value, Error> {
    let args = args.into_values();
    let filter = args.get(1).and_then(Value::as_str);
    if filter.is_some_and(|name| !MAPPED.contains(&name)) {
        return Err(Error::new(
            ErrorKind::UnknownFilter,
            "map takes none but simple filters here",
        ));
    }
    if filter.is_some()
        && let Some(first) = args.first()
    {
        charge_printed(first)?;
    }
    let list = BUILT_IN.empty_state().apply_filter("map", &args)?;
    // Lazy results are made here, while the budget counts.
    Ok(Value::from(list.try_iter()?.collect::<Vec<Value>>()))
}

fn join(value: Value, separator: Option<String>) -> Result<Value, Error> {
    let separator = separator.unwrap_or_default();
    let mut text = String::new();
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            charge(separator.len())?;
            text.push_str(&separator);
        }
        charge_printed(&item)?;
        match item.as_str() {
            Some(part) => text.push_str(part),
            None => text.push_str(&item.to_string()),
        }
    }
    Ok(Value::from(text))
}

fn replace(text: &str, from: &str, to: &str, count: Option<usize>) -> Result<Value, Error> {
    let found = text.matches(from).count().min(count.unwrap_or(usize::MAX));
    charge(text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(Value::from(match count {
        Some(count) => text.replacen(from, to, count),
        None => text.replace(from, to),
    }))
}

/// Jinja's `indent`: every line but the first by `width` spaces, empty ones left alone.
fn indent(text: &str, width: Option<usize>) -> Result<Value, Error> {
    const WIDTH_MAX: usize = 64;
    let margin = " ".repeat(width.unwrap_or(4).min(WIDTH_MAX));
    let lines = text.split('\n').count();
    charge(text.len() + lines * margin.len())?;
    let mut indented = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            indented.push('\n');
            if !line.is_empty() {
                indented.push_str(&margin);
            }
        }
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

/// Python's methods on strings, lists and dicts.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let text = value.as_str();
    match (name, text) {
        ("replace", Some(text)) => {
            let (from, to, count): (&str, &str, Option<i64>) = minijinja::value::from_args(args)?;
            let count = count.and_then(|count| usize::try_from(count).ok());
            return replace(text, from, to, count);
        }
        ("join", Some(separator)) => {
            let (items,): (Value,) = minijinja::value::from_args(args)?;
            return join(items, Some(separator.to_owned()));
        }
        ("format", Some(_)) => return Err(Error::from(ErrorKind::UnknownMethod)),
        ("removeprefix" | "removesuffix", Some(text)) => {
            let (edge,): (&str,) = minijinja::value::from_args(args)?;
            let rest = match name {
                "removeprefix" => text.strip_prefix(edge),
                _ => text.strip_suffix(edge),
            };
            charge(text.len())?;
            return Ok(Value::from(rest.unwrap_or(text)));
        }
        _ => {}
    }
    charge(text.map_or(0, str::len))?;
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

//! An object's size is limited as a file's is: by its fields, and by the files that its methods are spread over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::circles::{Code, from_root, use_trees};
use super::sources;

/// Beyond these it is several things. Fields of a struct; files with an `impl` of a type.
const FIELDS_MAX: usize = 14;
const FILES_MAX: usize = 5;

type Path = Vec<String>;

/// The types of the crate, told apart by the modules that define them.
struct Types {
    /// Structs by their path, with the number of their fields; other types with none.
    defined: BTreeMap<Path, usize>,
    /// The modules with an `impl` of each, whether of its own methods or of a trait's.
    implemented: BTreeMap<Path, BTreeSet<Path>>,
}

impl Types {
    fn of(code: &Code) -> Types {
        let code: Vec<(&Path, String)> =
            code.0.iter().map(|(module, text)| (module, without_literals(text))).collect();
        let mut types = Types { defined: BTreeMap::new(), implemented: BTreeMap::new() };
        for (module, text) in &code {
            for (name, fields) in definitions(text) {
                types.defined.insert([module.as_slice(), &[name]].concat(), fields);
            }
        }
        for (module, text) in &code {
            for name in implementations(text) {
                if let Some(of) = types.meant(module, text, &name) {
                    types.implemented.entry(of).or_default().insert((*module).clone());
                }
            }
        }
        types
    }

    /// Which type a module calls so: its own, the one that it imports or names by a path, or else the nearest.
    fn meant(&self, module: &Path, text: &str, called: &str) -> Option<Path> {
        let (path, name) = called.rsplit_once("::").unwrap_or(("", called));
        let own = [module.as_slice(), &[name.to_owned()]].concat();
        if path.is_empty() && self.defined.contains_key(&own) {
            return Some(own);
        }
        let imported = use_trees(text).0.into_iter().find_map(|tree| {
            let (from, last) = tree.rsplit_once("::")?;
            if last == name { from_root(module, from) } else { None }
        });
        let near = from_root(module, path).or(imported);
        let near = near.as_ref().unwrap_or(module);
        // What a front hands on is defined below it.
        let nearness = |path: &Path| {
            let shared = near.iter().zip(path).take_while(|(one, two)| one == two).count();
            (shared, Reverse(path.len()))
        };
        let of_name = self.defined.keys().filter(|path| path.last().is_some_and(|it| it == name));
        of_name.max_by_key(|path| nearness(path)).cloned()
    }

    fn with_more_fields(&self, than: usize) -> BTreeMap<String, String> {
        let large = self.defined.iter().filter(|(_, fields)| **fields > than);
        large.map(|(path, fields)| (path.join("::"), format!("{fields} fields"))).collect()
    }

    fn in_more_files(&self, than: usize) -> BTreeMap<String, String> {
        let spread = self.implemented.iter().filter(|(_, files)| files.len() > than);
        let told = |files: &BTreeSet<Path>| {
            let files: Vec<String> = files.iter().map(|file| file.join("::")).collect();
            format!("in {} files: {}", files.len(), files.join(", "))
        };
        spread.map(|(path, files)| (path.join("::"), told(files))).collect()
    }
}

/// With nothing inside the quotes of strings and characters.
fn without_literals(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'']) {
        kept.push_str(&rest[..at]);
        let is_raw = kept.ends_with(['r', '#']) && rest[at..].starts_with('"');
        rest = &rest[at..];
        let end = if is_raw {
            let hashes = kept.len() - kept.trim_end_matches('#').len();
            let quote = format!("\"{}", "#".repeat(hashes));
            rest[1..].find(&quote).map(|at| at + 2)
        } else if rest.starts_with('"') {
            end_of_string(rest)
        } else {
            end_of_character(rest)
        };
        rest = &rest[end.unwrap_or(1)..];
    }
    kept + rest
}

fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    let quote = text[1..].find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    quote.map(|at| at + 2)
}

/// `'a'`, `'\n'`, `'\u{1}'`; a lifetime has no end.
fn end_of_character(text: &str) -> Option<usize> {
    let inside = &text[1..];
    let len = match inside.strip_prefix('\\') {
        Some(escape) => 2 + escape.chars().skip(1).take_while(|c| *c != '\'').count(),
        None => inside.chars().next()?.len_utf8(),
    };
    inside.get(len..)?.starts_with('\'').then_some(len + 2)
}

/// What follows each `word` that stands by itself.
fn behind<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).filter_map(move |(at, _)| {
        let (before, rest) = (&text[..at], &text[at + word.len()..]);
        let alone = !before.ends_with(is_of_name) && !rest.starts_with(is_of_name);
        alone.then_some((before, rest))
    })
}

fn name_in(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The types that a text defines, and of structs how many fields they have.
fn definitions(text: &str) -> Vec<(String, usize)> {
    let structs = behind(text, "struct").map(|(_, rest)| (name_in(rest), fields(rest)));
    let others = ["enum", "union"].into_iter().flat_map(|word| behind(text, word));
    let others = others.map(|(_, rest)| (name_in(rest), 0));
    structs.chain(others).filter(|(name, _)| !name.is_empty()).collect()
}

/// Of `Name<T> { a: A, b: B }` or `Name(A, B);`.
fn fields(text: &str) -> usize {
    let text = text.replace("->", "  ");
    let Some(start) = text.find(['{', '(', ';']) else { return 0 };
    let (mut depth, mut is_begun, mut count) = (0, false, 0);
    for c in text[start..].chars() {
        match c {
            '{' | '(' | '[' | '<' => depth += 1,
            '}' | ')' | ']' | '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        let is_end = depth == 1 && c == ',';
        is_begun |= c.is_alphanumeric();
        count += usize::from(is_begun && is_end);
        is_begun &= !is_end;
    }
    count + usize::from(is_begun)
}

/// The types that a text implements something of, as it calls them.
fn implementations(text: &str) -> Vec<String> {
    let blocks = behind(text, "impl").filter(|(before, _)| {
        let before = before.trim_end().trim_end_matches("unsafe").trim_end();
        before.is_empty() || before.ends_with(['}', ';', ']', '{'])
    });
    blocks.filter_map(|(_, rest)| implemented(rest)).collect()
}

/// `<T> Trait for path::Name<T> where … {` → `path::Name`.
fn implemented(head: &str) -> Option<String> {
    let head = head.split('{').next()?.replace("->", "  ");
    let (mut depth, mut plain) = (0, String::new());
    for c in head.chars() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let plain = plain.split(" where ").next()?.replace('\n', " ");
    let of = plain.rsplit_once(" for ").map_or(plain.as_str(), |(_, of)| of);
    let is_of_path = |c: &char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let path: String = of.trim().chars().take_while(is_of_path).collect();
    (!path.is_empty()).then_some(path)
}

#[test]
fn types_have_few_fields_in_few_files() {
    let types = Types::of(&Code::new(sources()));
    let (large, spread) = (types.with_more_fields(FIELDS_MAX), types.in_more_files(FILES_MAX));
    assert!(large.is_empty(), "more than {FIELDS_MAX} fields: {large:#?}");
    assert!(spread.is_empty(), "methods in more than {FILES_MAX} files: {spread:#?}");
}

#[test]
fn fields_and_files_are_counted() {
    let files = [
        (
            "a",
            "use self::b::B;\npub struct A<T: F<u8, u8>> {\n    #[x]\n    pub one: T,\n    two: Box<dyn Fn(u8, u8) -> u8>,\n}",
        ),
        (
            "a/b",
            "struct A;\nstruct B(u8, [u8; 2], fn(u8, u8));\nimpl<'a> super::Trait for A {}\nfn f(x: impl A) {}",
        ),
        (
            "a/c",
            "use super::B;\nimpl B { const C: char = '{'; }\nunsafe impl<T> X for super::A<T> where T: Y<A> {}",
        ),
        ("a/d", "use crate::a::A;\nconst S: &str = \"impl A {\";\nimpl From<u8> for A {}"),
    ];
    let code =
        files.map(|(path, text)| (path.split('/').map(str::to_owned).collect(), text.into()));
    let types = Types::of(&Code(code.into()));
    let names = |found: BTreeMap<String, String>| found.into_keys().collect::<Vec<_>>();
    assert_eq!(names(types.with_more_fields(1)), ["a::A", "a::b::B"]);
    assert_eq!(names(types.with_more_fields(2)), ["a::b::B"]);
    assert_eq!(names(types.in_more_files(0)), ["a::A", "a::b::A", "a::b::B"]);
    let spread = types.in_more_files(1);
    assert_eq!(spread["a::A"], "in 2 files: a::c, a::d");
    assert_eq!(spread.len(), 1);
}

//! No import circle inside a folder: its modules can be read one after the other, from the bottom up.
//!
//! A folder's front (its `mod.rs`, or the file of its name beside it) may use its modules. What it defines itself they may
//! not use: types that several need stand in a module of their own, and the front hands them on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, sources};

type Path = Vec<String>;

/// All code that is not for tests, by the path of its module.
pub(super) struct Code(pub(super) BTreeMap<Path, String>);

impl Code {
    pub(super) fn new(sources: impl IntoIterator<Item = Source>) -> Code {
        let files = sources.into_iter().filter(|source| !source.is_test());
        let code = files.map(|source| (source.module_path(), without_tests(&source.text)));
        let code: BTreeMap<Path, String> = code.collect();
        let for_tests: Vec<Path> = code
            .iter()
            .flat_map(|(path, text)| {
                let names = text.split("#[cfg(test)]").skip(1).filter_map(declared_module);
                names.map(|name| [path.as_slice(), &[name]].concat())
            })
            .collect();
        let is_for_tests = |path: &Path| for_tests.iter().any(|test| path.starts_with(test));
        Code(code.into_iter().filter(|(path, _)| !is_for_tests(path)).collect())
    }

    /// All modules that have modules of their own in files.
    fn folders(&self) -> BTreeSet<Path> {
        let parents = self.0.keys().flat_map(|path| (1..path.len()).map(|len| &path[..len]));
        parents.map(<[String]>::to_vec).collect()
    }

    /// The folder's modules, and which others of them, or what of their front, each uses.
    fn uses(&self, folder: &[String]) -> Uses {
        let below = self.0.iter().filter(|(path, _)| path.starts_with(folder));
        let inside: Vec<(&String, &Path, &String)> =
            below.filter_map(|(path, text)| Some((path.get(folder.len())?, path, text))).collect();
        let modules: BTreeSet<&String> = inside.iter().map(|(module, ..)| *module).collect();
        let handed_on = self.handed_on(folder);
        let mut uses = Uses::default();
        for (module, path, text) in inside {
            let siblings = uses.siblings.entry(module.clone()).or_default();
            for used in references(path, text) {
                let Some(step) = used.strip_prefix(folder).and_then(|below| below.first()) else {
                    continue;
                };
                let step = handed_on.get(step).filter(|_| !modules.contains(step)).unwrap_or(step);
                if !modules.contains(step) {
                    uses.of_front.insert(format!("{module} uses {step}"));
                } else if step != module {
                    siblings.insert(step.clone());
                }
            }
        }
        uses
    }

    /// What a front has from its modules, and from which.
    fn handed_on(&self, folder: &[String]) -> BTreeMap<String, String> {
        let Some(text) = self.0.get(folder) else { return BTreeMap::new() };
        let trees = use_trees(text).0;
        let names = trees.into_iter().filter_map(|path| {
            let path = path.strip_prefix("self::").unwrap_or(&path);
            let (first, _) = path.split_once("::")?;
            let (_, last) = path.rsplit_once("::")?;
            Some((last.to_owned(), first.to_owned()))
        });
        names.collect()
    }
}

#[derive(Default)]
struct Uses {
    siblings: BTreeMap<String, BTreeSet<String>>,
    of_front: BTreeSet<String>,
}

impl Uses {
    /// A circle among the modules, if there is one: each uses the next, and the last the first.
    fn circle(&self) -> Option<Vec<&str>> {
        let mut left: BTreeMap<&str, &BTreeSet<String>> =
            self.siblings.iter().map(|(module, used)| (module.as_str(), used)).collect();
        // What uses none of the others is in no circle.
        while let Some(module) = left.iter().find_map(|(module, used)| {
            (!used.iter().any(|used| left.contains_key(used.as_str()))).then_some(*module)
        }) {
            left.remove(module);
        }
        let mut way = vec![*left.keys().next()?];
        loop {
            let used = left.get(way[way.len() - 1])?;
            let next = used.iter().find(|used| left.contains_key(used.as_str()))?;
            if let Some(start) = way.iter().position(|module| module == next) {
                return Some(way.split_off(start));
            }
            way.push(next);
        }
    }
}

/// Without comments, and without modules for tests inside the file.
fn without_tests(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut kept = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, behind) = rest.split_at(at);
        kept.push_str(before);
        let declaration = behind.find([';', '{']).unwrap_or(behind.len());
        let head = &behind[..declaration];
        let is_module = head.split_whitespace().any(|word| word == "mod");
        if is_module && behind[declaration..].starts_with('{') {
            rest = behind_block(&behind[declaration..]);
        } else {
            kept.push_str(head);
            rest = &behind[declaration..];
        }
    }
    kept + rest
}

/// What follows the block that the text begins with.
fn behind_block(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return &text[at + 1..],
            '}' => depth -= 1,
            _ => {}
        }
    }
    ""
}

/// ` pub mod name; …` → `name`.
fn declared_module(text: &str) -> Option<String> {
    let (head, _) = text.split_once(';')?;
    let (_, name) = head.rsplit_once("mod ")?;
    name.chars().all(|c| c.is_alphanumeric() || c == '_').then(|| name.to_owned())
}

/// All that a module's code names by a path from the crate's root, or from modules above it.
fn references(module: &[String], text: &str) -> BTreeSet<Path> {
    let (trees, code) = use_trees(text);
    let mut named: BTreeSet<String> = trees.into_iter().collect();
    for start in ["super::", "crate::"] {
        for (at, _) in code.match_indices(start) {
            let is_step = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let is_inside = code[..at].chars().next_back().is_some_and(is_step);
            let path: String = code[at..].chars().take_while(|c| is_step(*c)).collect();
            if !is_inside {
                named.insert(path.trim_end_matches(':').to_owned());
            }
        }
    }
    named.iter().filter_map(|path| from_root(module, path)).collect()
}

pub(super) fn from_root(module: &[String], path: &str) -> Option<Path> {
    let mut steps = path.split("::").peekable();
    let mut base = match *steps.peek()? {
        "crate" => {
            steps.next();
            Vec::new()
        }
        "super" => module.to_vec(),
        _ => return None,
    };
    while steps.next_if_eq(&"super").is_some() {
        base.pop();
    }
    base.extend(steps.map(str::to_owned));
    Some(base)
}

/// Each path that is imported, and the code without the imports.
pub(super) fn use_trees(text: &str) -> (Vec<String>, String) {
    let (mut trees, mut code) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        let (before, behind) = rest.split_at(at);
        code.push_str(before);
        let is_word = before.chars().next_back().is_none_or(char::is_whitespace);
        let end = if is_word { behind.find(';').unwrap_or(behind.len()) } else { "use ".len() };
        if is_word {
            flatten("", &without_renames(&behind["use ".len()..end]), &mut trees);
        }
        rest = &behind[end..];
    }
    code.push_str(rest);
    (trees, code)
}

/// `a::{b as c, d}` → `a::{b,d}`
fn without_renames(tree: &str) -> String {
    let (mut kept, mut renamed) = (String::new(), false);
    for word in tree.split_whitespace() {
        match word {
            "as" => renamed = true,
            _ if std::mem::take(&mut renamed) => {
                kept.extend(word.chars().filter(|c| "{},".contains(*c)));
            }
            _ => kept.push_str(word),
        }
    }
    kept
}

/// `a::{b,c::d}` → `a::b`, `a::c::d`.
fn flatten(before: &str, tree: &str, paths: &mut Vec<String>) {
    match tree.split_once('{') {
        Some((head, group)) => {
            let before = format!("{before}{head}");
            let group = group.strip_suffix('}').unwrap_or(group);
            super::first_steps(&format!("{group}}}"))
                .into_iter()
                .filter(|step| !step.is_empty())
                .for_each(|step| flatten(&before, step, paths));
        }
        None => paths.push(format!("{before}{tree}")),
    }
}

#[test]
fn no_folder_has_a_circle_of_imports() {
    let code = Code::new(sources());
    let (mut circles, mut of_front) = (BTreeMap::new(), BTreeMap::new());
    for folder in code.folders() {
        let uses = code.uses(&folder);
        if let Some(circle) = uses.circle() {
            circles.insert(folder.join("/"), circle.join(" → "));
        }
        if !uses.of_front.is_empty() {
            let used: Vec<String> = uses.of_front.into_iter().collect();
            of_front.insert(folder.join("/"), used.join(", "));
        }
    }
    assert!(circles.is_empty(), "modules that use each other in a circle: {circles:#?}");
    assert!(of_front.is_empty(), "modules that use what their front defines: {of_front:#?}");
}

#[test]
fn circles_are_found_in_every_form() {
    let code = |files: &[(&str, &str)]| {
        let source = |(path, text): &(&str, &str)| {
            let path = path.split('/').map(str::to_owned).collect::<Path>();
            (path, without_tests(text))
        };
        Code(files.iter().map(source).collect())
    };
    let folder = ["f".to_owned()];
    for text in [
        "use super::a::A;",
        "use super::{a as other, b};",
        "fn g() { super::a::h() }",
        "use crate::{f::{a::A}, x};",
    ] {
        let code =
            code(&[("f", ""), ("f/a", "use super::{b::B, c::C};"), ("f/b", text), ("f/c", "")]);
        assert_eq!(code.uses(&folder).circle(), Some(vec!["a", "b"]), "{text}");
    }
    let harmless = "// super::a\n#[cfg(test)]\nmod tests { use super::super::a::A; }";
    let code_of =
        |text| code(&[("f", "use a::A;\nstruct F;"), ("f/a", "use super::b::B;"), ("f/b", text)]);
    assert_eq!(code_of(harmless).uses(&folder).circle(), None);
    // What the front has from a module is the module's.
    assert!(code_of("use super::A;").uses(&folder).circle().is_some());
    assert!(code_of("use super::A;").uses(&folder).of_front.is_empty());
    let of_front = code_of("fn g(f: super::F) {}").uses(&folder).of_front;
    assert_eq!(of_front, BTreeSet::from(["b uses F".to_owned()]));
}

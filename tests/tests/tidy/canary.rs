//! Every rule fires on a snippet that breaks it: a checker that never complains proves nothing.

use crate::direction::{
    DIRECTIONS, PLACES, check_circles, check_directions, check_manifest, check_places,
};
use crate::readme::{check_map, check_test_command};
use crate::shape::{COLUMNS_MAX, FILE_LINES_MAX, FUNCTION_LINES_MAX, check_functions, check_lines};
use crate::source::{Finding, Source};
use crate::words::{check_getters, check_module_names, check_paths, check_words};

fn on(check: impl Fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    check(&Source::new(path, text)).iter().map(|finding| finding.line).collect()
}

#[test]
fn a_circle_is_told_at_each_of_its_edges() {
    let source = |module: &str, used: &str| {
        Source::new(&format!("core/src/{module}.rs"), &format!("use crate::{used}::Thing;\n"))
    };
    let files = [("mail", "links"), ("links", "effect"), ("effect", "mail"), ("worker", "mail")];
    let mut sources = Vec::from(files.map(|(module, used)| source(module, used)));
    let paths = |sources: &[Source]| -> Vec<String> {
        check_circles(sources).into_iter().map(|finding| finding.path).collect()
    };
    assert_eq!(paths(&sources), ["core/src/mail.rs", "core/src/links.rs", "core/src/effect.rs"]);
    sources.remove(1);
    assert!(paths(&sources).is_empty());
}

#[test]
fn each_direction_fires_with_its_sentence() {
    let breaches = [
        ("core/src/base/id.rs", "use crate::op::Request;"),
        ("core/src/op.rs", "use crate::state::State;"),
        ("core/src/txn.rs", "use crate::peer::Message;"),
        ("core/src/shard.rs", "use crate::op::Request;"),
        ("core/src/peer/codec.rs", "use crate::state::State;"),
        ("core/src/wire/request.rs", "use crate::state::Tree;"),
        ("core/src/zab/lead.rs", "use crate::state::Tree;"),
        ("core/src/state/apply.rs", "use crate::zab::Log;"),
        ("core/src/gateway/session.rs", "use crate::zab::Log;"),
        ("core/src/effect.rs", "use crate::wire::reply::Reply;"),
        ("storage/src/wal.rs", "use pigeonhole_core::zab::Log;"),
    ];
    assert_eq!(breaches.len(), DIRECTIONS.len(), "every direction has a canary");
    for ((path, text), direction) in breaches.into_iter().zip(DIRECTIONS) {
        let findings = check_directions(&Source::new(path, text));
        assert!(
            findings.iter().any(|finding| finding.message.ends_with(direction.why)),
            "{path} with `{text}` gave {findings:?}, not: {}",
            direction.why
        );
    }
}

#[test]
fn directions_see_through_groups_chains_and_bare_paths() {
    let zab = "core/src/zab/lead.rs";
    assert_eq!(on(check_directions, zab, "use crate::{\n base::Zxid,\n state::Tree};"), [1]);
    assert_eq!(on(check_directions, zab, "use crate::{a::{b, c}, state};"), [1]);
    assert_eq!(on(check_directions, zab, "fn f() {\n crate::wire::write();\n}"), [2]);
    assert_eq!(on(check_directions, zab, "use super::super::state::Tree;"), [1]);
    assert_eq!(on(check_directions, "core/src/zab.rs", "use super::state::Tree;"), [1]);
    let inside_test = "#[cfg(test)]\nmod tests {\n use super::super::super::state::Tree;\n}";
    assert_eq!(on(check_directions, zab, inside_test), [3]);
    assert_eq!(on(check_directions, zab, "use crate::Replica;"), [1]);
    let storage = "storage/src/segment.rs";
    assert_eq!(on(check_directions, storage, "use pigeonhole_core::{base, replica::R};"), [1]);
}

#[test]
fn directions_let_good_edges_pass() {
    let good = [
        ("core/src/zab/lead.rs", "use super::state::Own; use crate::{base::Zxid, txn};"),
        ("core/src/zab/lead.rs", "// crate::state is far away\nconst A: &str = \"crate::state\";"),
        ("core/src/replica.rs", "use crate::{state::Tree, wire::reply, zab::Log};"),
        ("core/src/worker_read.rs", "use crate::wire::reply;"),
        ("core/src/lib.rs", "pub use crate::Replica;"),
        ("core/src/txn.rs", "use crate::op::Request;"),
        ("storage/src/wal.rs", "use pigeonhole_core::base::Zxid;"),
        ("net/src/boot.rs", "use crate::zab::Anything; use pigeonhole_core::replica::Replica;"),
    ];
    for (path, text) in good {
        assert_eq!(on(check_directions, path, text), [0_usize; 0], "{path}: {text}");
    }
}

#[test]
fn each_place_fires_with_its_sentence() {
    for place in PLACES {
        let text = format!("fn f() {{\n    {}();\n}}\n", place.word);
        let findings = check_places(&Source::new("core/src/base/id.rs", &text));
        assert_eq!(findings.len(), 1, "{}", place.word);
        assert_eq!(findings[0].line, 2);
        assert!(findings[0].message.ends_with(place.why));
    }
    for (path, text) in [
        ("net/src/boot.rs", "use io_uring::IoUring;"),
        ("net/src/boot.rs", "use tokio_uring::fs;"),
        ("net/src/boot.rs", "fn f() { unsafe { g() } }"),
        ("tests/src/disk.rs", "unsafe impl Send for Disk {}"),
        ("core/src/zab/lead.rs", "Durable::attest(tail)"),
        ("core/src/zab/lead.rs", "Durable::<Ack>::attest(tail)"),
        ("tests/src/disk.rs", "Durable::attest(tail)"),
    ] {
        assert_eq!(on(check_places, path, text), [1], "{path}: {text}");
    }
}

#[test]
fn each_place_has_a_home() {
    for (path, text) in [
        ("net/src/ring/op.rs", "use io_uring::IoUring; unsafe {}"),
        ("net/src/control/files.rs", "use tokio_uring::fs;"),
        ("net/src/boot.rs", "Instant::now(); SystemTime::now();"),
        ("core/src/lib.rs", "#![forbid(unsafe_code)] // unsafe"),
        ("core/src/base/time.rs", "fn now() -> Instant { Instant::from_millis(1) }"),
        ("core/src/effect.rs", "pub fn attest(tail: T) -> Self {}"),
        ("storage/src/wal.rs", "Durable::attest(tail)"),
        ("core/src/zab/lead.rs", "#[cfg(test)]\nmod tests {\n fn f() { Durable::attest(t) }\n}"),
    ] {
        assert_eq!(on(check_places, path, text), [], "{path}: {text}");
    }
}

#[test]
fn manifests_that_point_back_are_refused() {
    let lines = |folder: &str, manifest: &str| -> Vec<usize> {
        check_manifest(folder, manifest).iter().map(|finding| finding.line).collect()
    };
    let storage = "[dependencies]\npigeonhole-storage.workspace = true\n";
    let bench =
        "[package]\n[dev-dependencies]\nlibc = \"0.2\"\npigeonhole-bench = { path = \"x\" }\n";
    let section = "[target.'cfg(unix)'.dependencies.pigeonhole]\npath = \"../net\"\n";
    let renamed = "[dependencies]\nserver = { package = \"pigeonhole\", path = \"../net\" }\n";
    assert_eq!(lines("core", storage), [2]);
    assert_eq!(lines("net", storage), []);
    assert_eq!(lines("tests", bench), [4]);
    assert_eq!(lines("storage", section), [1]);
    assert_eq!(lines("storage", renamed), [2]);
    assert_eq!(lines("unheard-of", ""), [1]);
}

#[test]
fn the_shape_of_a_file_is_checked() {
    let path = "core/src/op.rs";
    let head = "//! Sentence.\n";
    assert_eq!(on(check_lines, path, head), []);
    assert_eq!(on(check_lines, path, "use core::fmt;\n"), [1]);
    assert_eq!(on(check_lines, path, "//!\n"), [1]);
    assert_eq!(on(check_lines, "net/build.rs", "fn main() {}\n"), []);
    assert_eq!(on(check_lines, path, "//! Sentence."), [2]);
    assert_eq!(on(check_lines, path, &format!("{head}\tx\n")), [2]);
    assert_eq!(on(check_lines, path, &format!("{head}x \n")), [2]);
    assert_eq!(on(check_lines, path, &format!("{head}{}\n", "x".repeat(COLUMNS_MAX))), []);
    assert_eq!(on(check_lines, path, &format!("{head}{}\n", "x".repeat(COLUMNS_MAX + 1))), [2]);
    let full = format!("{head}{}", "\n".repeat(FILE_LINES_MAX - 1));
    assert_eq!(on(check_lines, path, &full), []);
    assert_eq!(on(check_lines, path, &format!("{full}\n")), [FILE_LINES_MAX + 1]);
    let tested = format!("{full}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(500));
    assert_eq!(on(check_lines, path, &tested), []);
    let only_an_item = format!("{head}#[cfg(test)]\nuse a::b;\n{}", "\n".repeat(FILE_LINES_MAX));
    assert_eq!(on(check_lines, path, &only_an_item), [FILE_LINES_MAX + 1]);
}

#[test]
fn long_functions_are_found_whatever_their_strings_say() {
    let function = |lines: usize| {
        let body = "    let a = \"}\"; // }\n".repeat(lines - 2);
        format!("trait T {{ fn short(&self, a: [u8; 4]) -> bool; }}\n\nfn f() {{\n{body}}}\n")
    };
    let path = "core/src/op.rs";
    assert_eq!(on(check_functions, path, &function(FUNCTION_LINES_MAX)), []);
    assert_eq!(on(check_functions, path, &function(FUNCTION_LINES_MAX + 1)), [3]);
    let raw =
        function(FUNCTION_LINES_MAX + 1).replace("\"}\"", "(r#\"\"}\"#, '}', b'\\'', \"\\\"}\")");
    assert_eq!(on(check_functions, path, &raw), [3]);
    let lifetimes = function(FUNCTION_LINES_MAX + 1).replace("f()", "f<'a>(a: &'a str)");
    assert_eq!(on(check_functions, path, &lifetimes), [3]);
    let nested = function(FUNCTION_LINES_MAX + 1).replace("// }", "/* } /* } */ } */");
    assert_eq!(on(check_functions, path, &nested), [3]);
}

#[test]
fn banned_words_are_found_where_they_count() {
    let path = "net/src/boot.rs";
    for bad in [
        "todo!()",
        "unimplemented!()",
        "dbg!(a)",
        "#[ignore]",
        "#[ignore = \"slow\"]",
        "#[allow(dead_code)]",
        "#![allow(unused_imports)]",
        "#![allow(warnings)]",
        "std::thread::sleep(d);",
        "use super::*;",
        "use a::{b::*, c};",
        concat!("// FIX", "ME later"),
        concat!("// XX", "X"),
        concat!("// a HA", "CK"),
    ] {
        assert_eq!(on(check_words, path, bad), [1], "{bad}");
    }
    for good in [
        "// todo! is a word",
        "let a = \"dbg!\";",
        "Request::GetData",
        "let product = a::B * c;",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n}",
        concat!("// XX", "XL"),
    ] {
        assert_eq!(on(check_words, path, good), [], "{good}");
    }
    assert_eq!(on(check_words, "bench/src/load.rs", "std::thread::sleep(d);"), []);
}

#[test]
fn getters_are_found_unless_they_are_operations() {
    let path = "net/src/boot.rs";
    assert_eq!(on(check_getters, path, "fn f() {}\nfn get_name() {}"), [2]);
    assert_eq!(on(check_getters, path, "fn get_data() {}\nfn get_children2() {}"), []);
    assert_eq!(on(check_getters, path, "fn forget_all() { map.get_mut(1) }"), []);
    let story = "#[cfg(test)]\nmod tests {\n fn get_name_is_answered() {}\n}";
    assert_eq!(on(check_getters, path, story), []);
}

#[test]
fn files_of_tests_may_be_long_and_use_what_they_test() {
    let text = format!("//! Tests.\nuse super::*;\n{}", "\n".repeat(FILE_LINES_MAX));
    for path in ["net/src/config/tests.rs", "core/tests/sessions.rs"] {
        assert_eq!(on(check_lines, path, &text), [], "{path}");
        assert_eq!(on(check_words, path, &text), [], "{path}");
    }
    assert_eq!(on(check_words, "tests/src/disk.rs", &text), [2], "the simulator is no test");
    let upwards = "use super::super::state::Tree;";
    assert_eq!(on(check_directions, "core/src/zab/tests.rs", upwards), [1]);
}

#[test]
fn modules_that_say_nothing_are_found() {
    assert_eq!(on(check_module_names, "net/src/utils.rs", ""), [1]);
    assert_eq!(on(check_module_names, "net/src/common/file.rs", ""), [1]);
    assert_eq!(on(check_module_names, "net/src/lib.rs", "mod a;\npub(crate) mod helpers;"), [2]);
    assert_eq!(on(check_module_names, "net/src/commonplace.rs", "mod manager_of_none;"), []);
}

#[test]
fn paths_of_a_machine_are_found() {
    let lines = |text: &str| check_paths("README.md", text).len();
    assert_eq!(lines(concat!("see /wo", "rk/x")), 1);
    assert_eq!(lines(concat!("see sha", "red/x")), 1);
    assert_eq!(lines("see /usr/share/java and net/work"), 0);
}

#[test]
fn a_map_that_lies_is_found() {
    let files = ["core/src/lib.rs", "core/src/zab/mod.rs", "tests/tests/tidy.rs"];
    let count =
        |map: &str| check_map(&format!("# A\n<!-- map -->\n{map}\n<!-- /map -->\n"), &files).len();
    assert_eq!(count("`core/src/lib.rs` — map.\n\n- `core/src/zab/` — order."), 0);
    assert_eq!(count("`core/src/lib.rs` — map.\n`core/src/zab/mod.rs` — order."), 0);
    assert_eq!(count("`core/src/lib.rs` — map."), 1, "one is missing");
    assert_eq!(count("`core/src/lib.rs` — \n`core/src/zab/` — order."), 1, "no sentence");
    assert_eq!(count("core/src/lib.rs is it\n`core/src/zab/` — order."), 2, "no entry");
    let twice = "`core/src/lib.rs` — map.\n`core/src/lib.rs` — map.\n`core/src/zab/` — order.";
    assert_eq!(count(twice), 1, "twice");
    let dead = "`core/src/lib.rs` — map.\n`core/src/gone.rs` — was.\n`core/src/zab/` — order.";
    let findings = check_map(&format!("# A\n<!-- map -->\n{dead}\n<!-- /map -->\n"), &files);
    assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [4]);
    assert_eq!(check_map("# A", &files).len(), 1, "no map at all");
}

#[test]
fn a_test_command_that_ci_does_not_run_is_found() {
    let readme = |command: &str| format!("<!-- test -->\n```sh\n{command}\n```\n<!-- /test -->\n");
    let runner = "sed -n '/<!-- test -->/,…'";
    assert_eq!(check_test_command(&readme("cargo test --workspace"), runner), []);
    assert_eq!(check_test_command(&readme("cargo test"), "cargo test").len(), 1);
    assert_eq!(check_test_command(&readme("make"), runner).len(), 1);
    assert_eq!(check_test_command(&readme("cargo test\ncargo run"), runner).len(), 1);
    assert_eq!(check_test_command("# A", runner).len(), 1);
}

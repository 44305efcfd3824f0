//! The stories in `scenarios/`: each is told as it was.

use std::path::{Path, PathBuf};

use pigeonhole_tests::script;

#[test]
fn stories_are_told_as_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the stories are there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "there are stories");
    let differences: Vec<String> =
        paths.iter().filter_map(|path| script::check(path).err()).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

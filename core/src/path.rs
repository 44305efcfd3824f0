//! The rules for paths (`PathUtils.validatePath`), and the two cuts that everybody needs.

use crate::base::limits::{PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// Why a path was refused; the client is told BadArguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathError {
    Empty,
    NotAbsolute,
    TrailingSlash,
    EmptyComponent,
    Relative,
    ForbiddenCharacter,
    TooLong,
    TooDeep,
}

/// Checks a path by ZooKeeper's rules, and by this server's bounds on length and depth.
///
/// With `sequential`, the last component may be empty, `.` or `..`: ZooKeeper checks such a path
/// with a digit appended.
pub fn check(path: &str, sequential: bool) -> Result<(), PathError> {
    let bytes = path.as_bytes();
    match bytes.first() {
        None => return Err(PathError::Empty),
        Some(b'/') => {}
        Some(_) => return Err(PathError::NotAbsolute),
    }
    if bytes.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    // Every request passes here, and almost every path is plain: two sweeps without a branch in
    // them settle those, and the exact rules are asked only about the rest.
    if is_plain(bytes) {
        return Ok(());
    }
    check_slowly(path, sequential)
}

/// The path of the parent; `None` for the root.
pub fn parent(path: &str) -> Option<&str> {
    if path.len() == 1 {
        return None;
    }
    let cut = path.rfind('/')?;
    Some(if cut == 0 { "/" } else { &path[..cut] })
}

/// The last component; empty for the root.
pub fn name(path: &str) -> &str {
    path.rfind('/').map_or(path, |cut| &path[cut + 1..])
}

/// The first component, which decides the shard; empty for the root.
pub fn top(path: &str) -> &str {
    let rest = path.strip_prefix('/').unwrap_or(path);
    rest.split('/').next().unwrap_or("")
}

/// Whether a path of ASCII letters and signs is certainly legal: nothing in it could be an empty or
/// a relative component, and it is too short to be too deep.
fn is_plain(bytes: &[u8]) -> bool {
    if bytes.len() > PATH_DEPTH_MAX || bytes[bytes.len() - 1] == b'/' {
        return bytes.len() == 1;
    }
    let mut plain = true;
    for &byte in bytes {
        plain &= byte.wrapping_sub(0x20) < 0x5f;
    }
    for (&first, &second) in bytes.iter().zip(&bytes[1..]) {
        plain &= (first != b'/') | ((second != b'/') & (second != b'.'));
    }
    plain
}

fn check_slowly(path: &str, sequential: bool) -> Result<(), PathError> {
    if path.len() == 1 {
        return Ok(());
    }
    if !sequential && path.ends_with('/') {
        return Err(PathError::TrailingSlash);
    }
    let mut components = path[1..].split('/').peekable();
    let mut depth = 0;
    while let Some(component) = components.next() {
        depth += 1;
        let number_follows = sequential && components.peek().is_none();
        check_component(component, number_follows)?;
    }
    if depth > PATH_DEPTH_MAX { Err(PathError::TooDeep) } else { Ok(()) }
}

fn check_component(component: &str, number_follows: bool) -> Result<(), PathError> {
    if !number_follows {
        match component {
            "" => return Err(PathError::EmptyComponent),
            "." | ".." => return Err(PathError::Relative),
            _ => {}
        }
    }
    if component.chars().any(is_forbidden) { Err(PathError::ForbiddenCharacter) } else { Ok(()) }
}

/// The characters that ZooKeeper refuses: controls, surrogates, private use and the specials. What
/// lies beyond 16 bits is two surrogates to ZooKeeper, and refused with them.
fn is_forbidden(character: char) -> bool {
    let code = u32::from(character);
    code <= 0x1f
        || (0x7f..=0x9f).contains(&code)
        || (0xd800..=0xf8ff).contains(&code)
        || code >= 0xfff0
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::{PathError, check, name, parent, top};
    use crate::base::limits::{PATH_BYTES_MAX, PATH_DEPTH_MAX};

    /// Each path with ZooKeeper's own verdict (`PathUtils.validatePath` of 3.8.0), plain and
    /// sequential.
    const VERDICTS: [(&str, bool, bool); 30] = [
        ("", false, false),
        ("/", true, true),
        ("a", false, false),
        ("a/b", false, false),
        (" /a", false, false),
        ("/a", true, true),
        ("/a/", false, true),
        ("//", false, false),
        ("//a", false, false),
        ("/a//b", false, false),
        ("/a//", false, false),
        ("/.", false, true),
        ("/..", false, true),
        ("/a/.", false, true),
        ("/a/..", false, true),
        ("/./a", false, false),
        ("/../a", false, false),
        ("/a/./b", false, false),
        ("/a/../b", false, false),
        ("/a/./", false, false),
        ("/...", true, true),
        ("/.a", true, true),
        ("/..a", true, true),
        ("/a.", true, true),
        ("/a..", true, true),
        ("/a/.../b", true, true),
        ("/a/.b", true, true),
        ("/a/.1", true, true),
        ("/ ", true, true),
        ("/a b/~!@#$%^&*()-_=+[]{}|;:'\",<>?`\\", true, true),
    ];

    #[test]
    fn judges_as_zookeeper_does() {
        for (path, plain, sequential) in VERDICTS {
            assert_eq!(check(path, false).is_ok(), plain, "{path:?}");
            assert_eq!(check(path, true).is_ok(), sequential, "{path:?} sequential");
        }
    }

    #[test]
    fn names_the_reason() {
        assert_eq!(check("", false), Err(PathError::Empty));
        assert_eq!(check("a", false), Err(PathError::NotAbsolute));
        assert_eq!(check("/a/", false), Err(PathError::TrailingSlash));
        assert_eq!(check("/a//b", false), Err(PathError::EmptyComponent));
        assert_eq!(check("/a/./b", false), Err(PathError::Relative));
        assert_eq!(check("/a\u{0}", false), Err(PathError::ForbiddenCharacter));
    }

    /// The ranges that ZooKeeper 3.8.0 refuses, found by asking it about every UTF-16 unit.
    #[test]
    fn refuses_exactly_the_characters_that_zookeeper_refuses() {
        for character in '\0'..=char::MAX {
            let code = u32::from(character);
            let refused = matches!(code, 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..);
            let legal = check(&format!("/a{character}b"), false).is_ok();
            assert_eq!(legal, !refused, "U+{code:04X}");
            if refused {
                assert!(check(&format!("/{character}"), true).is_err(), "U+{code:04X}");
            }
        }
    }

    #[test]
    fn bounds_length_and_depth() {
        let longest = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
        assert_eq!(check(&longest, false), Ok(()));
        assert_eq!(check(&format!("{longest}a"), false), Err(PathError::TooLong));
        let deepest = "/a".repeat(PATH_DEPTH_MAX);
        assert_eq!(check(&deepest, false), Ok(()));
        assert_eq!(check(&format!("{deepest}/a"), false), Err(PathError::TooDeep));
        assert_eq!(check(&format!("{deepest}/"), true), Err(PathError::TooDeep));
    }

    /// The quick sweep and the exact rules agree on every short path over the signs that matter.
    #[test]
    fn the_quick_sweep_agrees_with_the_exact_rules() {
        let signs = ['/', '.', 'a', ' ', '~', '\u{7f}', '\u{1f}', 'é'];
        let mut paths = alloc::vec![String::from("/")];
        for length in 0..4 {
            let longer: alloc::vec::Vec<String> = paths
                .iter()
                .filter(|path| path.chars().count() == length + 1)
                .flat_map(|path| signs.iter().map(move |sign| format!("{path}{sign}")))
                .collect();
            paths.extend(longer);
        }
        assert!(paths.len() > 4000, "{}", paths.len());
        for path in &paths {
            for sequential in [false, true] {
                let slow = super::check_slowly(path, sequential);
                assert_eq!(check(path, sequential), slow, "{path:?} {sequential}");
            }
        }
    }

    #[test]
    fn cuts() {
        assert_eq!(parent("/"), None);
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!((name("/"), name("/a"), name("/a/b")), ("", "a", "b"));
        assert_eq!((top("/"), top("/a"), top("/a/b/c")), ("", "a", "a"));
    }
}

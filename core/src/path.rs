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
/// With `sequential`, a trailing `/` is legal: ZooKeeper checks such a path with a digit appended.
pub fn check(path: &str, sequential: bool) -> Result<(), PathError> {
    let Some(first) = path.bytes().next() else {
        return Err(PathError::Empty);
    };
    if first != b'/' {
        return Err(PathError::NotAbsolute);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    if path.len() == 1 {
        return Ok(());
    }
    let checked = if sequential { path } else { check_end(path)? };
    let mut depth = 0;
    let components = checked[1..].split('/');
    let count = components.clone().count();
    for (index, component) in components.enumerate() {
        depth += 1;
        let is_open_end = sequential && index + 1 == count && component.is_empty();
        if !is_open_end {
            check_component(component)?;
        }
    }
    if depth > PATH_DEPTH_MAX {
        Err(PathError::TooDeep)
    } else {
        Ok(())
    }
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

fn check_end(path: &str) -> Result<&str, PathError> {
    if path.ends_with('/') {
        Err(PathError::TrailingSlash)
    } else {
        Ok(path)
    }
}

fn check_component(component: &str) -> Result<(), PathError> {
    if component.is_empty() {
        return Err(PathError::EmptyComponent);
    }
    if component == "." || component == ".." {
        return Err(PathError::Relative);
    }
    if component.chars().any(is_forbidden) {
        Err(PathError::ForbiddenCharacter)
    } else {
        Ok(())
    }
}

/// The characters that ZooKeeper refuses: controls, surrogates, private use and the specials.
fn is_forbidden(character: char) -> bool {
    let code = u32::from(character);
    code <= 0x1f
        || (0x7f..=0x9f).contains(&code)
        || (0xd800..=0xf8ff).contains(&code)
        || (0xfff0..=0xffff).contains(&code)
}

//! Between what clients ask, what they are told, and what the log holds of it.

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::txn::{ArchivedOperation, ArchivedTxn};

use crate::history::{Answer, Ask, Operation, Part};
use crate::people::People;

pub(crate) fn is_read(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Get { .. }
            | Ask::Exists { .. }
            | Ask::Children { .. }
            | Ask::GetAcl { .. }
            | Ask::MultiRead(_)
            | Ask::CountBelow { .. }
            | Ask::Ephemerals { .. }
    )
}

/// A multi is refused in its body.
pub(crate) fn is_refusal(answer: &Answer) -> bool {
    let Answer::Multi(parts) = answer else {
        return false;
    };
    parts.iter().any(|part| matches!(part, Part::Error(_)))
}

/// Errors that come from the tree, rather than from the session or the server.
pub(crate) fn is_models(code: i32) -> bool {
    matches!(
        ErrorCode::from_wire(code),
        Some(
            ErrorCode::NoNode
                | ErrorCode::NodeExists
                | ErrorCode::BadVersion
                | ErrorCode::NotEmpty
                | ErrorCode::NoChildrenForEphemerals
                | ErrorCode::NoAuth
                | ErrorCode::InvalidAcl
        )
    )
}

/// A create inside a multi is answered without its stat.
pub(crate) fn comparable(answer: &Answer) -> Answer {
    let Answer::Multi(parts) = answer else {
        return answer.clone();
    };
    let bare = |part: &Part| match part {
        Part::Created { path, .. } => Part::Created { path: path.clone(), stat: None },
        other => other.clone(),
    };
    Answer::Multi(parts.iter().map(bare).collect())
}

pub(crate) fn is_clients(operation: &ArchivedOperation) -> bool {
    matches!(
        operation,
        ArchivedOperation::Create { .. }
            | ArchivedOperation::Delete { .. }
            | ArchivedOperation::SetData { .. }
            | ArchivedOperation::SetAcl { .. }
            | ArchivedOperation::Check
    )
}

/// Whether a transaction is what a request asks for.
pub(crate) fn is_same(asked: &Operation, txn: &ArchivedTxn) -> bool {
    let operations: Vec<&ArchivedOperation> =
        txn.operations.iter().filter(|operation| is_clients(operation)).collect();
    let asks = match &asked.ask {
        Ask::Multi(asks) => asks.as_slice(),
        one => std::slice::from_ref(one),
    };
    asks.len() == operations.len()
        && asks
            .iter()
            .zip(operations)
            .all(|(ask, operation)| is_same_part(ask, asked.people, operation))
}

fn is_same_part(ask: &Ask, people: People, operation: &ArchivedOperation) -> bool {
    match (ask, operation) {
        (
            Ask::Create { path, data, mode },
            ArchivedOperation::Create { path: made, data: held, ephemeral_owner, .. },
        ) => {
            let named = if mode.is_sequential() {
                made.starts_with(path.as_str())
            } else {
                made.as_str() == path
            };
            let is_ephemeral = ephemeral_owner.to_native() != 0;
            named && held.as_deref() == data.as_deref() && is_ephemeral == mode.is_ephemeral()
        }
        (Ask::Set { path, data, .. }, ArchivedOperation::SetData { path: set, data: held, .. }) => {
            set.as_str() == path && held.as_deref() == data.as_deref()
        }
        (Ask::Delete { path, .. }, ArchivedOperation::Delete { path: gone }) => {
            gone.as_str() == path
        }
        (Ask::SetAcl { path, list, .. }, ArchivedOperation::SetAcl { path: set, acl, .. }) => {
            let stored = list.stored(people).unwrap_or_default();
            set.as_str() == path
                && stored.len() == acl.len()
                && stored.iter().zip(acl.iter()).all(|(one, held)| {
                    held.permissions.to_native() == one.permissions
                        && held.scheme.as_str() == one.principal.scheme()
                        && held.id.as_str() == one.principal.id()
                })
        }
        (Ask::Check { .. }, ArchivedOperation::Check) => true,
        _ => false,
    }
}

pub(crate) fn describe(txn: &ArchivedTxn) -> String {
    let name = |operation: &ArchivedOperation| match operation {
        ArchivedOperation::Create { path, .. } => format!("create {path}"),
        ArchivedOperation::Delete { path } => format!("delete {path}"),
        ArchivedOperation::SetData { path, .. } => format!("set {path}"),
        ArchivedOperation::SetAcl { path, .. } => format!("setAcl {path}"),
        _ => "other".to_owned(),
    };
    txn.operations.iter().map(name).collect::<Vec<_>>().join(", ")
}

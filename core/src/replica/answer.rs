//! What an applied change is to the client that asked for it.

use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{CoreId, SessionId, Zxid};
use crate::mail::{Outcome, Ticket};
use crate::op::OpCode;
use crate::peer::message::WriteAsk;
use crate::replica::asking::{Asked, Question};
use crate::replica::{Deed, Replica};
use crate::state::apply::{Applied, OperationResult, SessionChange};
use crate::txn::Origin;
use crate::wire::reply;

impl Replica {
    /// If the change was asked for on this node, whoever asked hears what came of it; if it is
    /// about a partition point, when every other shard knows it.
    pub(super) fn answer_origin(
        &mut self,
        zxid: Zxid,
        origin: Origin,
        applied: &Applied,
        deeds: &mut Vec<Deed>,
    ) {
        let answer = self.origin_answer(origin, applied);
        let points = self.points_changed_at(zxid);
        if !points.is_empty() && (answer.is_some() || self.reign.is_some()) {
            self.carry(&points, zxid, answer, deeds);
        } else if let Some((core, ticket, outcome)) = answer {
            self.answer(core, ticket, zxid, outcome, deeds);
        }
    }

    fn origin_answer(
        &mut self,
        origin: Origin,
        applied: &Applied,
    ) -> Option<(CoreId, Ticket, Outcome)> {
        if !self.is_mine(origin) {
            return None;
        }
        let key = (CoreId(origin.core), Ticket(origin.ticket));
        // Only writes are logged: under the name of anything else, it is not this server's.
        let ask = self.asked.remove_write(&key)?;
        let outcome = match ask {
            WriteAsk::Client { op_code, .. } => client_outcome(op_code, applied),
            WriteAsk::SessionCreate { .. } | WriteAsk::SessionRenew { .. } => {
                self.session_outcome(applied)
            }
            other => self.system_outcome(&other),
        };
        Some((key.0, key.1, outcome))
    }

    /// The outcome of a question that the leader found answered already.
    pub(super) fn done_outcome(&self, asked: &Asked) -> Outcome {
        match &asked.question {
            Question::Write { ask, .. } => self.system_outcome(ask),
            Question::Barrier | Question::Recall { .. } => {
                Outcome::Reply { code: ErrorCode::Ok, body: Vec::new() }
            }
        }
    }

    /// What the home hears of a step in another shard; of a purge, whether it was the last.
    fn system_outcome(&self, ask: &WriteAsk) -> Outcome {
        let mut body = Vec::new();
        if let WriteAsk::SessionPurge { session } = ask {
            body.push(u8::from(self.state.sessions().attached(SessionId(*session)).is_none()));
        }
        Outcome::Reply { code: ErrorCode::Ok, body }
    }

    fn session_outcome(&self, applied: &Applied) -> Outcome {
        for change in applied.sessions() {
            if let SessionChange::Created { session, .. } | SessionChange::Renewed { session, .. } =
                *change
                && let Some(home) = self.state.sessions().home(session)
            {
                return Outcome::Session {
                    generation: home.generation,
                    timeout_ms: home.timeout_ms,
                    attached: home.attachments().to_vec(),
                };
            }
        }
        Outcome::refused(ErrorCode::SessionExpired)
    }
}

/// The reply's body for a multi that failed: one error for each operation.
pub(super) fn refused_multi(codes: &[i32]) -> Outcome {
    let mut body = Vec::new();
    for &code in codes {
        let code = ErrorCode::from_wire(code).unwrap_or(ErrorCode::SystemError);
        reply::multi_error(&mut body, code);
    }
    reply::multi_end(&mut body);
    Outcome::Refused { code: ErrorCode::Ok, body }
}

fn client_outcome(op_code: i32, applied: &Applied) -> Outcome {
    let mut body = Vec::new();
    if op_code == OpCode::Multi.wire() {
        for result in applied.results() {
            reply::multi_result(&mut body, operation_of(&result));
            put_result(&mut body, &result);
        }
        reply::multi_end(&mut body);
    } else {
        for result in applied.results() {
            put_result(&mut body, &result);
        }
    }
    Outcome::Reply { code: ErrorCode::Ok, body }
}

fn operation_of(result: &OperationResult<'_>) -> OpCode {
    match result {
        OperationResult::Created { stat: None, .. } => OpCode::Create,
        OperationResult::Created { stat: Some(_), .. } => OpCode::Create2,
        OperationResult::Deleted => OpCode::Delete,
        OperationResult::DataSet(_) => OpCode::SetData,
        OperationResult::AclSet(_) => OpCode::SetAcl,
        OperationResult::Checked => OpCode::Check,
    }
}

fn put_result(body: &mut Vec<u8>, result: &OperationResult<'_>) {
    match result {
        OperationResult::Created { path, stat } => {
            reply::string(body, path);
            if let Some(stat) = stat {
                reply::stat(body, stat);
            }
        }
        OperationResult::DataSet(stat) | OperationResult::AclSet(stat) => reply::stat(body, stat),
        OperationResult::Deleted | OperationResult::Checked => {}
    }
}

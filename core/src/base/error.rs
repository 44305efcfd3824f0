//! ZooKeeper's error codes as one enum (`KeeperException.Code`).

/// What a client is told when its request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum ErrorCode {
    Ok = 0,
    SystemError = -1,
    RuntimeInconsistency = -2,
    ConnectionLoss = -4,
    MarshallingError = -5,
    Unimplemented = -6,
    OperationTimeout = -7,
    BadArguments = -8,
    NoNode = -101,
    NoAuth = -102,
    BadVersion = -103,
    NoChildrenForEphemerals = -108,
    NodeExists = -110,
    NotEmpty = -111,
    SessionExpired = -112,
    InvalidAcl = -114,
    AuthFailed = -115,
    SessionMoved = -118,
    NoWatcher = -121,
    ReconfigDisabled = -123,
    ThrottledOp = -127,
}

impl ErrorCode {
    pub const fn wire(self) -> i32 {
        self as i32
    }

    /// The code with this number, if it is one that this server ever sends.
    pub fn from_wire(number: i32) -> Option<Self> {
        const ALL: [ErrorCode; 21] = [
            ErrorCode::Ok,
            ErrorCode::SystemError,
            ErrorCode::RuntimeInconsistency,
            ErrorCode::ConnectionLoss,
            ErrorCode::MarshallingError,
            ErrorCode::Unimplemented,
            ErrorCode::OperationTimeout,
            ErrorCode::BadArguments,
            ErrorCode::NoNode,
            ErrorCode::NoAuth,
            ErrorCode::BadVersion,
            ErrorCode::NoChildrenForEphemerals,
            ErrorCode::NodeExists,
            ErrorCode::NotEmpty,
            ErrorCode::SessionExpired,
            ErrorCode::InvalidAcl,
            ErrorCode::AuthFailed,
            ErrorCode::SessionMoved,
            ErrorCode::NoWatcher,
            ErrorCode::ReconfigDisabled,
            ErrorCode::ThrottledOp,
        ];
        ALL.into_iter().find(|code| code.wire() == number)
    }
}

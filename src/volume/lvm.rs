use super::{Assembly, SharedVolume};
use crate::device::ReadAt;
use crate::refusal::Refusal;
#[derive(Debug, Clone)]
pub(crate) struct Member;
pub(crate) fn member(_volume: &dyn ReadAt) -> Result<Member, Refusal> {
    Err(Refusal::Unsupported(
        "its free space is not looked for".into(),
    ))
}
impl Member {
    pub(crate) fn set(&self) -> String {
        String::new()
    }
    pub(crate) fn set_name(&self) -> String {
        String::new()
    }
    pub(crate) fn uuid(&self) -> String {
        String::new()
    }
}
pub(crate) fn assemble(_m: Vec<(Member, SharedVolume<'_>)>) -> Result<Assembly<'_>, Refusal> {
    Err(Refusal::Unsupported(
        "its free space is not looked for".into(),
    ))
}

//! The main job in one command.
/// Runs it.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

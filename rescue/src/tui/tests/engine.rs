//! Effects on real threads: answers come, panics are answers, a plan given up is never run.

use std::{sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, unbounded};

use crate::{
    block::DiskRef,
    job::{CaptureJob, Job, Outcome},
    tui::{
        demo::{Demo, Fate},
        engine::Engine,
        message::{Effect, Msg},
        state::State,
        tests::options,
    },
};

fn engine(demo: Demo) -> (Engine, Receiver<Msg>) {
    let (out, answers) = unbounded();
    (Engine::new(Arc::new(demo), out), answers)
}

fn answer(answers: &Receiver<Msg>) -> Msg {
    answers.recv_timeout(Duration::from_secs(20)).expect("an answer")
}

fn capture() -> Job {
    let disk = DiskRef::Path("/dev/nvme0n1".to_owned());
    Job::Capture(CaptureJob {
        disk,
        store: "/mnt".into(),
        level: 3,
        note: None,
        sector_size: None,
        keep_swap_files: false,
    })
}

fn plan(engine: &Engine, answers: &Receiver<Msg>) {
    let ticket = State::new(options(true)).0.ticket;
    engine.perform(Effect::MakePlan(ticket, capture()));
    assert!(matches!(answer(answers), Msg::Planned(_, Ok(_))));
}

fn report(answers: &Receiver<Msg>) -> crate::job::Report {
    loop {
        match answer(answers) {
            Msg::Finished(report) => return *report,
            Msg::Job(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_plan_is_kept_and_run() {
    let (engine, answers) = engine(Demo::default());
    plan(&engine, &answers);
    engine.perform(Effect::RunPlan(capture()));
    assert_eq!(report(&answers).outcome, Outcome::Complete);
    // It is run once.
    engine.perform(Effect::RunPlan(capture()));
    assert_eq!(report(&answers).outcome, Outcome::Failed);
}

#[test]
fn a_plan_given_up_is_never_run() {
    let (engine, answers) = engine(Demo::default());
    plan(&engine, &answers);
    engine.perform(Effect::DropPlan);
    engine.perform(Effect::RunPlan(capture()));
    assert_eq!(report(&answers).outcome, Outcome::Failed);

    let ticket = State::new(options(true)).0.ticket;
    engine.perform(Effect::MakePlan(ticket, capture()));
    engine.perform(Effect::DropPlan);
    assert!(matches!(answer(&answers), Msg::Planned(..)));
    engine.perform(Effect::RunPlan(capture()));
    assert_eq!(report(&answers).outcome, Outcome::Failed, "given up while it was made");
}

#[test]
fn a_panic_of_a_job_is_a_failed_job() {
    let (engine, answers) = engine(Demo { fate: Fate::Panic, ..Demo::default() });
    plan(&engine, &answers);
    engine.perform(Effect::RunPlan(capture()));
    let report = report(&answers);
    assert_eq!(
        (report.outcome, report.job.as_str(), report.disk.as_str()),
        (Outcome::Failed, "capture", "/dev/nvme0n1")
    );
    assert!(report.error.is_some_and(|error| error.contains("a made-up defect")));
}

#[test]
fn a_running_job_hears_that_it_should_stop() {
    let (engine, answers) = engine(Demo { pace: Duration::from_millis(5), ..Demo::default() });
    plan(&engine, &answers);
    engine.perform(Effect::RunPlan(capture()));
    engine.perform(Effect::CancelJob);
    let report = report(&answers);
    assert_eq!(report.error.as_deref(), Some("stopped by the operator"));
}

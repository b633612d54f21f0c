//! A [`Host`] made of plain values, for unit tests of hook logic.

#![allow(missing_docs)]

use super::{Context, Host, Level, SpankError, Step};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// What the fake Slurm knows and what the hooks did to it.
#[derive(Debug)]
pub struct FakeHost {
    pub context: Context,
    pub step: Step,
    pub owner: (u32, u32),
    pub task: u32,
    pub local_tasks: u32,
    pub nodes: u32,
    pub memory_mib: u64,
    pub argv: Vec<OsString>,
    pub command_line: Vec<OsString>,
    /// What srun has just read for a component.
    pub component: Option<Vec<OsString>>,
    /// Words put before argv; `None` is a Slurm before 23.11.
    pub prepended: Option<Vec<OsString>>,
    pub job_env: BTreeMap<String, OsString>,
    pub own_env: BTreeMap<String, OsString>,
    pub verbose: bool,
    pub lines: RefCell<Vec<(Level, String)>>,
}

impl FakeHost {
    /// Job 7, step 0, its only task, `sleep 1` as the command, before Slurm 23.11.
    pub fn new(context: Context) -> Self {
        Self {
            context,
            step: Step::Srun(0),
            owner: (1000, 1000),
            task: 0,
            local_tasks: 1,
            nodes: 1,
            memory_mib: 0,
            argv: vec!["sleep".into(), "1".into()],
            command_line: vec!["srun".into(), "sleep".into(), "1".into()],
            component: None,
            prepended: None,
            job_env: BTreeMap::new(),
            own_env: BTreeMap::new(),
            verbose: false,
            lines: RefCell::default(),
        }
    }

    pub fn command(&self) -> String {
        let words = self.prepended.iter().flatten().chain(&self.argv);
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

impl Host for FakeHost {
    fn context(&self) -> Context {
        self.context
    }
    fn job_id(&self) -> Result<u32, SpankError> {
        Ok(7)
    }
    fn step(&self) -> Result<Step, SpankError> {
        Ok(self.step)
    }
    fn owner(&self) -> Result<(u32, u32), SpankError> {
        Ok(self.owner)
    }
    fn task_id(&self) -> Result<u32, SpankError> {
        Ok(self.task)
    }
    fn local_tasks(&self) -> Result<u32, SpankError> {
        Ok(self.local_tasks)
    }
    fn local_task_id(&self) -> Result<u32, SpankError> {
        Ok(self.task)
    }
    fn all_tasks(&self) -> Result<u32, SpankError> {
        Ok(self.local_tasks * self.nodes)
    }
    fn step_nodes(&self) -> Result<u32, SpankError> {
        Ok(self.nodes)
    }
    fn node_id(&self) -> Result<u32, SpankError> {
        Ok(0)
    }
    fn global_task_id(&self, local: u32) -> Result<u32, SpankError> {
        Ok(local)
    }
    fn step_memory_mib(&self) -> Result<u64, SpankError> {
        Ok(self.memory_mib)
    }
    fn argv(&self) -> Result<Vec<OsString>, SpankError> {
        Ok(self.argv.clone())
    }
    fn set_arg(&mut self, index: usize, word: &OsStr) -> Result<(), SpankError> {
        self.argv[index] = word.to_owned();
        Ok(())
    }
    fn component_command(&self) -> Option<Vec<OsString>> {
        self.component.clone()
    }
    fn hide_component_command(&mut self, word: &OsStr) -> Result<(), SpankError> {
        self.component.as_mut().expect("nothing was read")[0] = word.to_owned();
        Ok(())
    }
    fn command_line(&self) -> Vec<OsString> {
        self.command_line.clone()
    }
    fn can_prepend_argv(&self) -> bool {
        self.prepended.is_some()
    }
    fn prepend_argv(&mut self, words: &[&OsStr]) -> Result<(), SpankError> {
        let prepended = self.prepended.as_mut().expect("called on a Slurm that lacks it");
        prepended.extend(words.iter().map(|&word| word.to_owned()));
        Ok(())
    }
    fn job_env(&self, name: &str) -> Result<Option<OsString>, SpankError> {
        Ok(self.job_env.get(name).cloned())
    }
    fn set_job_env(&mut self, name: &str, value: &OsStr) -> Result<(), SpankError> {
        self.job_env.insert(name.into(), value.into());
        Ok(())
    }
    fn unset_job_env(&mut self, name: &str) -> Result<(), SpankError> {
        self.job_env.remove(name);
        Ok(())
    }
    fn is_verbose(&self) -> bool {
        self.verbose
    }
    fn own_env(&self, name: &str) -> Option<OsString> {
        self.own_env.get(name).cloned()
    }
    fn set_own_env(&mut self, name: &str, value: &OsStr) {
        self.own_env.insert(name.into(), value.into());
    }
    fn log(&self, level: Level, text: &str) {
        self.lines.borrow_mut().push((level, text.into()));
    }
}

//! What a program in QEMU's place can still do.

use super::*;
use crate::confine::{Confine, Unconfined};
use std::fs::{self, OpenOptions};
use std::path::PathBuf;

const REQUIRED: Confinement<'static> = Confinement { how: Confine::Require, dirs: &[] };
const NOT: Confinement<'static> = Confinement { how: Confine::Off, dirs: &[] };

/// Whether this kernel can confine anything. Where it cannot, no program starts that must be confined, which is checked here, and
/// all others do.
fn can_confine() -> bool {
    let Err(why) = REQUIRED.look(Path::new("/bin/sh")) else { return true };
    let place = Place::new("echo started");
    let refused = place.spawn(REQUIRED, Files::default(), &[]).expect_err("it must be confined").to_string();
    assert!(refused.contains("confine_qemu = \"require\"") && refused.ends_with(&why.to_string()), "{refused}");
    assert!(matches!(why, Unconfined::Kernel(_)), "{why}");
    for how in [Confine::Auto, Confine::Off] {
        assert_eq!(place.said(Confinement { how, dirs: &[] }, Files::default(), &[]), "started\n");
    }
    false
}

/// The home of a user, and a site's directory with a program that is a script.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(script: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.at("home")).unwrap();
        fs::create_dir(place.at("site")).unwrap();
        fs::write(place.at("home/secret"), "secret\n").unwrap();
        // Other shells know no descriptor of two digits.
        let script = format!("#!/bin/bash\nexec >&$1 2>&1\n{script}\n");
        node::testing::program(&place.at("site/qemu"), &script).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the script, whose first argument is the number of its channel; more arguments follow.
    fn spawn(&self, confinement: Confinement<'_>, files: Files, args: &[&str]) -> Result<QemuProcess, QemuError> {
        let host = Host {
            blocked: SigSet::empty(),
            ran_out_of_memory: || false,
            file_server: None,
            small_pages: false,
            confinement,
        };
        QemuProcess::spawn(&self.at("site/qemu"), host, files, |inherited| {
            let number = |fd: RawFd| OsString::from(fd.to_string());
            let ram = inherited.files.template.iter().map(|template| number(template.ram.as_raw_fd()));
            let own = [number(inherited.channel.as_raw_fd()), self.at("home").into_os_string()];
            own.into_iter().chain(ram).chain(args.iter().map(Into::into)).collect()
        })
    }

    /// What the script says into its channel.
    fn said(&self, confinement: Confinement<'_>, files: Files, args: &[&str]) -> String {
        let mut process = self.spawn(confinement, files, args).unwrap();
        process.channel.set_nonblocking(false).unwrap();
        process.channel.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut said = String::new();
        process.channel.read_to_string(&mut said).unwrap();
        said
    }
}

/// One word for each attempt that succeeds.
const ATTEMPTS: &str = "
    cat $2/secret >/dev/null 2>&1 && echo read
    ls $2 >/dev/null 2>&1 && echo list
    (echo more >>$2/secret) 2>/dev/null && echo append
    (echo new >$2/new) 2>/dev/null && echo create
    mv $2/secret $2/moved 2>/dev/null && echo move
    mkdir $2/dir 2>/dev/null && echo mkdir
    ln -s secret $2/link 2>/dev/null && echo link
    (: </proc/self/root/$2/moved) 2>/dev/null && echo around
    rm $2/moved 2>/dev/null && echo remove
    test -r /etc/passwd && cat /etc/passwd /proc/self/status >/dev/null && head -c 1 /dev/urandom >/dev/null && echo works";

#[test]
fn a_program_in_qemu_s_place_opens_no_file_of_the_user() {
    if !can_confine() {
        return;
    }
    let all = "read list append create move mkdir link around remove works";
    let said = |confinement| {
        let place = Place::new(ATTEMPTS);
        place.said(confinement, Files::default(), &[]).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(said(NOT), all);
    assert_eq!(said(REQUIRED), "works");
}

#[test]
fn it_opens_its_template_again_as_it_was_opened_and_its_kernel() {
    if !can_confine() {
        return;
    }
    let script = "
        (: </proc/self/fd/$3) && echo read
        (: 2>/dev/null <>/proc/self/fd/$3) && echo write
        cat $5 && cat $2/secret";
    let said = |access: &mut OpenOptions| {
        let place = Place::new(script);
        fs::write(place.at("home/kernel"), "kernel\n").unwrap();
        fs::write(place.at("ram"), "").unwrap();
        let [ram, state] = ["ram", "ram"].map(|name| access.open(place.at(name)).unwrap());
        // As an old template's that somebody has removed.
        fs::remove_file(place.at("ram")).unwrap();
        let template = Some(TemplateFiles { ram, state });
        let files = Files { template, ..Files::default() };
        place.said(REQUIRED, files, &["-kernel", place.at("home/kernel").to_str().unwrap()])
    };
    let private = said(OpenOptions::new().read(true));
    assert!(private.contains("read\n") && !private.contains("write") && private.contains("kernel\n"), "{private}");
    let own = said(OpenOptions::new().read(true).write(true));
    assert!(own.contains("read\nwrite\nkernel\n") && own.contains("denied") && !own.contains("secret\n"), "{own}");
}

#[test]
fn the_site_says_what_more_a_program_needs_and_unknown_needs_confine_nothing() {
    if !can_confine() {
        return;
    }
    let place = Place::new(ATTEMPTS);
    let look = |how, dirs: &[PathBuf], program: &str| Confinement { how, dirs }.look(Path::new(program));
    assert!(look(Confine::Auto, &[], "/usr/bin/env").is_ok());
    let (script, site) = (place.at("site/qemu"), [place.at("site")]);
    let script = script.to_str().unwrap();
    for (dirs, why) in [(&[][..], "is in no directory of the system's"), (&site[..], "is a script")] {
        let error = look(Confine::Auto, dirs, script).unwrap_err();
        assert!(matches!(&error, Unconfined::Program(text) if text.contains(why)), "{error}");
    }
    assert!(look(Confine::Require, &[], script).is_ok());
    let program = place.at("site/bin/qemu");
    fs::create_dir(place.at("site/bin")).unwrap();
    fs::copy("/usr/bin/env", &program).unwrap();
    let program = program.to_str().unwrap();
    assert!(look(Confine::Auto, &[], program).is_err());
    assert!(look(Confine::Auto, &site, program).is_ok());
    // What nobody knows goes on as before.
    assert!(place.said(Confinement { how: Confine::Auto, dirs: &[] }, Files::default(), &[]).contains("read"));
    // The site's own directories are read, not written.
    let place = Place::new(ATTEMPTS);
    let home = [place.at("home")];
    let said = place.said(Confinement { how: Confine::Require, dirs: &home }, Files::default(), &[]);
    assert_eq!(said, "read\nlist\nworks\n");
}

impl Place {
    /// The program is made of these lines of C. It has the library of every QEMU, and not that of QEMU's own sandbox.
    fn of_program(source: &str) -> Self {
        let place = Self::new("");
        let (glib, name) = (place.at("site/libglib-2.0.so.0"), "-Wl,-soname,libglib-2.0.so.0");
        let gcc = |source: &str, options: &[&str]| {
            fs::write(place.at("source.c"), source).unwrap();
            assert!(Command::new("gcc").arg(place.at("source.c")).args(options).status().unwrap().success());
        };
        gcc("int nothing;\n", &["-shared", name, "-o", glib.to_str().unwrap()]);
        let own = ["-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", glib.to_str().unwrap()];
        gcc(source, &[&own[..], &["-o", place.at("site/qemu").to_str().unwrap()]].concat());
        place
    }
}

/// Tells its channel what it can execute: what its third argument names, and itself.
const EXECUTES: &str = r#"
#include <stdlib.h>
#include <unistd.h>
extern char **environ;
int main(int count, char **words) {
    if (count < 4) return write(atoi(words[1]), "itself", 6), 0;
    char *other[] = {words[3], NULL}, *again[] = {words[0], words[1], NULL};
    dup2(atoi(words[1]), 1);
    execve(words[3], other, environ);
    write(1, "nothing else, ", 14);
    execve(words[0], again, environ);
    return 9;
}
"#;

#[test]
fn a_program_without_a_sandbox_of_its_own_executes_itself_at_most_and_is_not_started_unconfined() {
    if !can_confine() {
        return;
    }
    let place = Place::of_program(EXECUTES);
    assert_eq!(place.said(REQUIRED, Files::default(), &["/bin/echo"]), "nothing else, itself");
    let refused = place.spawn(NOT, Files::default(), &["/bin/echo"]).expect_err("nothing would hold it").to_string();
    assert!(
        refused.contains("built without seccomp") && refused.ends_with("the site has switched it off"),
        "{refused}"
    );
}

#[test]
fn a_qemu_that_makes_a_forbidden_call_ends_and_the_step_says_why() {
    if !can_confine() {
        return;
    }
    let place = Place::of_program("#include <unistd.h>\nint main(void) { fork(); return sleep(1000); }\n");
    let mut process = place.spawn(REQUIRED, Files::default(), &[]).unwrap();
    let reason = process.exit_reason();
    assert!(reason.starts_with("QEMU was ended for a system call that its sandbox forbids"), "{reason}");
    assert!(!process.was_killed(), "nobody else did it");
}

//! Interactive steps: a shell in tmux, a step in that shell, and keys as a person types them.

use super::{Case, same};

pub const CASES: &[Case] = &[
    same(
        "pty",
        "Ctrl-C, Ctrl-\\, Ctrl-Z and fg, exit status",
        r#"open_terminal
        enter 'ulimit -c 0; PS1="in> " srun -Q $VM --pty bash --norc; echo status $?'; see '^in>'
        enter "sh -c 'echo one; exec sleep 100'"; see '^one'; keys C-c; see_last '^in>'
        enter 'echo interrupted $?'; see '^interrupted 130'; see_last '^in>'
        enter "sh -c 'echo two; exec sleep 100'"; see '^two'; keys 'C-\'; see_last '^in>'
        enter 'echo quit $?'; see '^quit 131'; see_last '^in>'
        enter "sh -c 'echo three; exec sleep 100'"; see '^three'; keys C-z; see 'Stopped'; see_last '^in>'
        enter 'fg; echo resumed $?'; see "^sh -c 'echo three"; sleep 0.5; keys C-c; see_last '^in>'
        enter 'jobs; exit 5'; see '^status 5'; see_last '^>'
        screen | grep -v -e '^vm: ' -e '^> ulimit' -e '^exit$'"#,
    ),
    same(
        "pty",
        "size, resize, colours, line editing",
        r#"open_terminal
        enter 'PS1="in> " srun -Q $VM --pty bash --norc'; see '^in>'
        enter 'stty size'; see '^24 80'
        see_last '^in>'; in_tmux resize-window -x 100 -y 30
        enter 'until stty size | grep 30.100; do sleep 0.1; done; stty size; echo $COLUMNS'; see '^100'; see_last '^in>'
        enter 'printf "\033[31mred\033[0m\n"'; see '^red'; see_last '^in>'
        keys -l 'echo firxst lst'; keys Left Left a C-a C-f C-f C-f C-f C-f C-f C-f C-f C-f BSpace Enter; see '^first last'; see_last '^in>'
        coloured_screen | grep -v '^vm: '"#,
    ),
    same(
        "pty",
        "a full-screen program",
        r#"open_terminal
        enter 'PS1="in> " srun -Q $VM --pty bash --norc'; see '^in>'
        enter 'top -d 100'; see 'load average'; see '[0-9] stopped'; see 'PID USER.*COMMAND'
        screen | grep -o -e 'load average' -e 'PID USER.*COMMAND' -e '[0-9]* stopped'
        keys q; see_last '^in>'; enter 'exit 3'; see_last '^>'; enter 'echo status $?'; see '^status 3'; see_last '^>'; screen | tail -2"#,
    ),
    same(
        "pty",
        "the terminal works again after the step was killed",
        r#"open_terminal
        enter 'srun -Q -J victim $VM --pty bash -c "stty raw -echo; : > started; sleep 100"'; until_file started; sleep 0.5
        kill -9 $(task_pids victim); while [ -n "$(job victim)" ]; do sleep 0.1; done; sleep 1
        enter 'stty -a | tr " ;" "\n" | grep -xE -e "-?(icanon|echo|isig|opost|icrnl)" | tr "\n" " "; echo end'; see '^-?icrnl.*end$'
        screen | grep -E '^-?icrnl.*end$'"#,
    ),
    same(
        "pty",
        "the terminal works again after srun was killed",
        r#"open_terminal
        enter 'sh -c "echo \$\$ > pid; exec srun -Q $VM --pty sh -c \": > started; sleep 100\""'; until_file started; sleep 0.5
        kill -TERM $(cat pid); while kill -0 $(cat pid); do sleep 0.1; done 2> /dev/null; sleep 1
        enter 'stty -a | tr " ;" "\n" | grep -xE -e "-?(icanon|echo|isig|opost|icrnl)" | tr "\n" " "; echo end'; see '^-?icrnl.*end$'
        screen | grep -E '^-?icrnl.*end$'"#,
    ),
    same(
        "pty",
        "salloc and srun --pty",
        r#"open_terminal
        enter 'PS1="alloc> " salloc -Q $VM bash --norc'; see '^alloc>'
        enter 'PS1="in> " srun -Q --pty bash --norc 2> /dev/null'; see '^in>'
        enter 'tty | tr -d 0-9; test -t 0 -a -t 1 -a -t 2 && echo all three; exit 4'; see '^all three'; see_last '^alloc>'
        enter 'echo step $?'; see '^step 4'; see_last '^alloc>'; enter 'exit 6'; see_last '^>'
        enter 'echo salloc $?'; see '^salloc 6'; see_last '^>'
        screen | grep -v '^vm: '"#,
    ),
];

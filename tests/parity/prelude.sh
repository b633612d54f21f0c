# shellcheck shell=bash
# What the scripts of the parity cases share. Before it, the options of the step are set: VM, and
# for two of a kind TWO, LABEL, RANK, for two tasks of a node BOTH.

# until_file NAME: waits until a command has made this file; ends the script if that does not happen.
until_file() {
    local try
    for ((try = 0; try < 600; try++)); do
        [[ ! -e $1 ]] || return 0
        sleep 0.1
    done
    echo "$1 did not appear"
    exit 1
}

# until_completed JOB: waits until the job has ended well. A controller that is busy and says nothing is asked again.
until_completed() {
    local try
    for ((try = 0; try < 300; try++)); do
        [[ $(squeue -h -t all -j "$1" -o %T 2>/dev/null) != COMPLETED ]] || return 0
        sleep 1
    done
    echo "job $1 did not complete"
    exit 1
}

# without_reset: messages of srun, from standard input, without those of a race of its own. A step that ends while input is on its
# way to it closes a connection with something unread in it, and on bare metal too srun may tell that (once in 150 times under load).
without_reset() {
    grep -v -e '_server_read: fd [0-9]* error reading header: Connection reset by peer' \
        -e 'step_launch_notify_io_failure: aborting, io error with slurmstepd' -e '^srun: Job step aborted$'
}

# job NAME: number of the running job of this name.
job() { squeue -h -n "$1" -o %A; }

# task_pids NAME: the processes on this machine that Slurm started for the job of this name.
task_pids() {
    local environ
    environ=SLURM_JOB_ID=$(job "$1")
    grep -lzx "$environ" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}

# --- a terminal of 24 lines and 80 columns with a shell in it, driven as by a person

TERMINAL=parity-$$-$RANDOM

in_tmux() { tmux -L "$TERMINAL" -f /dev/null "$@"; }

open_terminal() {
    trap 'in_tmux kill-server 2>/dev/null' EXIT
    # A shell that is not interactive does not pass PS1 on.
    export VM
    in_tmux new-session -d -x 80 -y 24 "env PS1='> ' bash --norc"
    see '^>'
}

# keys KEY...: in the form of tmux send-keys.
keys() { in_tmux send-keys "$@"; }

# enter TEXT: a line of text.
enter() { keys -l "$1" && keys Enter; }

# What is on the screen, as text and with its colours.
screen() { in_tmux capture-pane -p | sed -e 's/ *$//' -e '/^$/d'; }
coloured_screen() { in_tmux capture-pane -p -e | sed -e 's/ *$//' -e '/^$/d'; }

# see_last PATTERN: waits until the last line of the screen matches, as a new prompt does.
see_last() {
    local try
    for ((try = 0; try < 200; try++)); do
        ! screen | tail -n 1 | grep -Eq -e "$1\$" || return 0
        sleep 0.1
    done
    echo "the screen does not end with '$1':"
    screen
    exit 1
}

# see PATTERN: waits until a line of the screen matches; ends the script if none does.
see() {
    local try
    for ((try = 0; try < 200; try++)); do
        ! screen | grep -Eq -e "$1" || return 0
        sleep 0.1
    done
    echo "'$1' is not on the screen:"
    screen
    exit 1
}

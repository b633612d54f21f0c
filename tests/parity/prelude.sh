# shellcheck shell=bash
# What the scripts of the parity cases share. Before it, the options of the step are set: VM, and
# for two of a kind TWO, LABEL, RANK, for two tasks of a node BOTH.

# How long a wait may last, in seconds: for a step that needs seconds of a processor on a machine where twenty others want it too.
PATIENCE=180

# give_up TEXT: ends the script because something did not happen, and its steps and jobs: they would wait for the script, and other
# cases for them.
give_up() {
    local pids
    echo "$1"
    mapfile -t pids < <(jobs -pr)
    ((${#pids[@]} == 0)) || kill "${pids[@]}"
    squeue -h -o '%A %Z' | awk -v "dir=$PWD" '$2 == dir { print $1 }' | xargs -r scancel
    exit 1
}

# until_file NAME: waits until a command has made this file; ends the script if that does not happen.
until_file() {
    local begin=$EPOCHSECONDS
    until [[ -e $1 ]]; do
        ((EPOCHSECONDS < begin + PATIENCE)) || give_up "$1 did not appear"
        sleep 0.1
    done
}

# until_said TEXT COMMAND...: waits until the command prints this text, and prints what it has printed last.
until_said() {
    local begin=$EPOCHSECONDS wanted=$1 said
    shift
    while
        said=$("$@")
        [[ $said != "$wanted" ]] && ((EPOCHSECONDS < begin + PATIENCE))
    do
        sleep 0.5
    done
    echo "$said"
}

# until_completed JOB: waits until the job has ended well. A controller that is busy and says nothing is asked again.
until_completed() {
    local begin=$EPOCHSECONDS
    until [[ $(squeue -h -t all -j "$1" -o %T 2>/dev/null) == COMPLETED ]]; do
        ((EPOCHSECONDS < begin + 2 * PATIENCE)) || give_up "job $1 did not complete"
        sleep 1
    done
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
    local begin=$EPOCHSECONDS
    until screen | tail -n 1 | grep -Eq -e "$1\$"; do
        ((EPOCHSECONDS < begin + PATIENCE)) || give_up "the screen does not end with '$1':"$'\n'"$(screen)"
        sleep 0.1
    done
}

# see PATTERN: waits until a line of the screen matches; ends the script if none does.
see() {
    local begin=$EPOCHSECONDS
    until screen | grep -Eq -e "$1"; do
        ((EPOCHSECONDS < begin + PATIENCE)) || give_up "'$1' is not on the screen:"$'\n'"$(screen)"
        sleep 0.1
    done
}

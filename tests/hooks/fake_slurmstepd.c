/*
 * Stands in for the programs that load the plugin: exports the functions of spank.h that it uses,
 * loads the real library, and calls its hooks in the order it reads from standard input. What the
 * hooks say and do comes out on standard output, one fact per line; tests/hooks compares.
 *
 *     fake_slurmstepd LIBRARY srun|sbatch|stepd|slurmd|script [WORD...]
 *
 * The WORDs are there to be found on the process's own command line.
 *
 *     load                  dlopen, as Slurm does; tells the release the plugin claims
 *     init [WORD...]        slurm_spank_init with these arguments from plugstack.conf
 *     option NAME [VALUE]   the callback of a registered option; no value is a null pointer
 *     set job|step|uid|gid|task|tasks|mem NUMBER
 *     argv WORD...          the command line of the step
 *     component WORD...     the command that srun has read for a component
 *     copied                what srun keeps of it after slurm_spank_init_post_opt
 *     env NAME=VALUE        a variable of the job
 *     getenv NAME           a variable of this process
 *     hook NAME [WORD...]   any hook with these arguments; tells its return code
 *     task                  forks as slurmstepd does: task_init_privileged, task_init, "execve"
 *     show                  the command line that srun would send, and the hidden command
 *     deaf                  from now on every item is refused
 *     count                 the number of open descriptors and of threads of this process
 *     unload                dlclose
 *
 * -DAPI=N: API_CURRENT of the Slurm release that is played. -DPREPEND: that of 23.11 and later.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <slurm/spank.h>

#define MAX 64

struct spank_handle {
	int unused;
};

static struct spank_handle handle;
static enum spank_context context;
static void *library;
static struct spank_option options[MAX];
static int option_count, deaf;
static uint32_t job = 7, step = 0, uid, gid, task = 0, tasks = 1;
static uint64_t mem;
static char *argv_[MAX + 1], *env_[MAX + 1];
static int argc_;

/*
 * Where srun keeps what it has read, the command line among it: in 22.05 second in `sropt`, later somewhere in the middle
 * of `opt`.
 */
struct options {
	int argc;
#ifdef PREPEND
	char *others[70];
#endif
	char **argv;
	char *more[200];
} opt, sropt;

#ifdef PREPEND
#define READ opt
#else
#define READ sropt
#endif

static void say(const char *kind, const char *format, va_list args)
{
	printf("%s: ", kind);
	vprintf(format, args);
	printf("\n");
}

#define LOGGER(name, kind)                  \
	void name(const char *format, ...)  \
	{                                   \
		va_list args;               \
		va_start(args, format);     \
		say(kind, format, args);    \
		va_end(args);               \
	}
LOGGER(slurm_error, "error")
LOGGER(slurm_spank_log, "note")
LOGGER(slurm_info, "info")
LOGGER(slurm_verbose, "verbose")
LOGGER(slurm_debug, "debug")

long slurm_api_version(void)
{
	return (long) API << 16 | 1;
}

const char *spank_strerror(spank_err_t code)
{
	return code == ESPANK_BAD_ARG ? "Bad argument" : "Some error";
}

spank_context_t spank_context(void)
{
	return context;
}

spank_err_t spank_option_register(spank_t spank, struct spank_option *option)
{
	(void) spank;
	if (!option->name || !option->usage || option_count == MAX)
		return ESPANK_BAD_ARG;
	options[option_count] = *option;
	options[option_count++].name = strdup(option->name);
	return ESPANK_SUCCESS;
}

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
	va_list args;
	uint32_t local;

	if (spank != &handle || deaf)
		return ESPANK_BAD_ARG;
	va_start(args, item);
	switch (item) {
	case S_JOB_ID:
		*va_arg(args, uint32_t *) = job;
		break;
	case S_JOB_STEPID:
		*va_arg(args, uint32_t *) = step;
		break;
	case S_JOB_UID:
		*va_arg(args, uid_t *) = uid;
		break;
	case S_JOB_GID:
		*va_arg(args, gid_t *) = gid;
		break;
	case S_TASK_GLOBAL_ID:
		*va_arg(args, uint32_t *) = task;
		break;
	case S_JOB_LOCAL_TASK_COUNT:
		*va_arg(args, uint32_t *) = tasks;
		break;
	case S_JOB_LOCAL_TO_GLOBAL_ID:
		local = va_arg(args, uint32_t);
		*va_arg(args, uint32_t *) = local;
		break;
	case S_STEP_ALLOC_MEM:
		*va_arg(args, uint64_t *) = mem;
		break;
	case S_JOB_ARGV:
		*va_arg(args, int *) = argc_;
		*va_arg(args, char ***) = argv_;
		break;
	default:
		va_end(args);
		return ESPANK_BAD_ARG;
	}
	va_end(args);
	return ESPANK_SUCCESS;
}

static char **find(const char *name)
{
	size_t length = strlen(name);
	char **place = env_;

	while (*place && (strncmp(*place, name, length) || (*place)[length] != '='))
		place++;
	return place;
}

spank_err_t spank_getenv(spank_t spank, const char *name, char *buffer, int size)
{
	char **place = find(name);

	if (spank != &handle || size < 0)
		return ESPANK_BAD_ARG;
	if (!*place)
		return ESPANK_ENV_NOEXIST;
	if (snprintf(buffer, size, "%s", *place + strlen(name) + 1) >= size)
		return ESPANK_NOSPACE;
	return ESPANK_SUCCESS;
}

spank_err_t spank_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
	char **place = find(name);

	if (spank != &handle || (*place && !overwrite))
		return ESPANK_BAD_ARG;
	return asprintf(place, "%s=%s", name, value) < 0 ? ESPANK_ERROR : ESPANK_SUCCESS;
}

spank_err_t spank_unsetenv(spank_t spank, const char *name)
{
	char **place = find(name);

	(void) spank;
	for (; *place; place++)
		place[0] = place[1];
	return ESPANK_SUCCESS;
}

#ifdef PREPEND
spank_err_t spank_prepend_task_argv(spank_t spank, int count, const char *words[])
{
	if (spank != &handle || argc_ + count > MAX)
		return ESPANK_BAD_ARG;
	memmove(argv_ + count, argv_, (argc_ + 1) * sizeof(*argv_));
	for (int i = 0; i < count; i++)
		argv_[i] = strdup(words[i]);
	argc_ += count;
	return ESPANK_SUCCESS;
}
#endif

/* Splits a line into words; returns their number. */
static int split(char *line, char **words)
{
	int count = 0;
	char *save, *word = strtok_r(line, " \n", &save);

	for (; word && count < MAX; word = strtok_r(NULL, " \n", &save))
		words[count++] = word;
	words[count] = NULL;
	return count;
}

static void die(const char *what, const char *which)
{
	printf("fake slurmstepd: %s: %s\n", what, which);
	exit(99);
}

static void *need(const char *symbol)
{
	void *address = library ? dlsym(library, symbol) : NULL;

	if (!address)
		die("not exported", symbol);
	return address;
}

static int call(const char *hook, int argc, char **argv)
{
	char name[100];
	spank_f *function;

	snprintf(name, sizeof(name), "slurm_spank_%s", hook);
	*(void **) &function = need(name);
	return function(&handle, argc, argv);
}

static void load(const char *path)
{
	if (!(library = dlopen(path, RTLD_LAZY)))
		die("dlopen", dlerror());
	printf("loaded %s %s %06x\n", (char *) need("plugin_name"), (char *) need("plugin_type"),
	       *(uint32_t *) need("plugin_version"));
	while (option_count > 0)
		free(options[--option_count].name);
}

static void set(const char *name, const char *number)
{
	unsigned long value = strtoul(number, NULL, 0);
	struct {
		const char *name;
		uint32_t *place;
	} const items[] = { { "job", &job }, { "step", &step }, { "uid", &uid },
			    { "gid", &gid }, { "task", &task }, { "tasks", &tasks } };

	if (!strcmp(name, "mem")) {
		mem = value;
		return;
	}
	for (size_t i = 0; i < sizeof(items) / sizeof(*items); i++) {
		if (!strcmp(name, items[i].name)) {
			*items[i].place = (uint32_t) value;
			return;
		}
	}
	die("no such item", name);
}

static void option(const char *name, const char *value)
{
	for (int i = 0; i < option_count; i++) {
		if (!strcmp(options[i].name, name)) {
			printf("option %s = %d\n", name,
			       options[i].cb(options[i].val, value, context == S_CTX_REMOTE));
			return;
		}
	}
	die("not registered", name);
}

/* As slurmstepd: a task that fails here ends with status 1 and is never executed. */
static void run_task(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (call("task_init_privileged", 0, NULL) < 0 || call("task_init", 0, NULL) < 0) {
			printf("Failed to invoke spank plugin stack\n");
			_exit(1);
		}
		printf("execve");
		for (int i = 0; i < argc_; i++)
			printf(" %s", argv_[i]);
		printf("\n");
		for (char **entry = env_; *entry; entry++)
			printf("with %s\n", *entry);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (WIFEXITED(status))
		printf("task ended with %d\n", WEXITSTATUS(status));
	else
		printf("task ended by signal %d\n", WTERMSIG(status));
}

static void show(void)
{
	const char *hidden = getenv("SLURM_SPANK_VM_COMMAND");

	for (int i = 0; i < argc_; i++)
		printf("%s%s", i ? " " : "", argv_[i]);
	printf(", for %s\n", hidden ? hidden : "nobody");
}

/* The words of the value had blanks between them. */
static void set_env(int count, char **words)
{
	char text[8000] = "";

	for (int i = 0; i < count; i++) {
		strcat(text, i ? " " : "");
		strncat(text, words[i], sizeof(text) - strlen(text) - 2);
	}
	*find("") = strdup(text);
}

/* As _opt_args of srun: copies, with a null pointer at the end. */
static void component(int count, char **words)
{
	READ.argc = count;
	READ.argv = calloc(count + 1, sizeof(*READ.argv));
	for (int i = 0; i < count; i++)
		READ.argv[i] = strdup(words[i]);
}

static void copied(void)
{
	printf("copied");
	for (int i = 0; i < READ.argc; i++)
		printf(" %s", READ.argv[i]);
	printf("\n");
}

/* Entries of a directory of /proc that are numbers. */
static int entries(const char *path)
{
	struct dirent *entry;
	DIR *directory = opendir(path);
	int count = 0;

	while (directory && (entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

int main(int argc, char **argv)
{
	char line[10000], *words[MAX + 1];

	if (argc < 3)
		return 99;
	context = !strcmp(argv[2], "stepd")  ? S_CTX_REMOTE :
		  !strcmp(argv[2], "srun")   ? S_CTX_LOCAL :
		  !strcmp(argv[2], "slurmd") ? S_CTX_SLURMD :
		  !strcmp(argv[2], "script") ? S_CTX_JOB_SCRIPT :
					       S_CTX_ALLOCATOR;
	setvbuf(stdout, NULL, _IONBF, 0);
	uid = getuid();
	gid = getgid();
	while (fgets(line, sizeof(line), stdin)) {
		int count = split(line, words);
		const char *verb = words[0];

		if (count == 0)
			continue;
		if (!strcmp(verb, "load"))
			load(argv[1]);
		else if (!strcmp(verb, "init"))
			printf("init = %d\n", call("init", count - 1, words + 1));
		else if (!strcmp(verb, "hook"))
			printf("%s = %d\n", words[1], call(words[1], count - 2, words + 2));
		else if (!strcmp(verb, "option"))
			option(words[1], words[2]);
		else if (!strcmp(verb, "set"))
			set(words[1], words[2]);
		else if (!strcmp(verb, "component"))
			component(count - 1, words + 1);
		else if (!strcmp(verb, "copied"))
			copied();
		else if (!strcmp(verb, "getenv"))
			printf("%s=%s\n", words[1], getenv(words[1]) ? getenv(words[1]) : "");
		else if (!strcmp(verb, "env"))
			set_env(count - 1, words + 1);
		else if (!strcmp(verb, "argv"))
			for (argc_ = 0; argc_ < count; argc_++)
				argv_[argc_] = words[argc_ + 1] ? strdup(words[argc_ + 1]) : NULL;
		else if (!strcmp(verb, "task"))
			run_task();
		else if (!strcmp(verb, "show"))
			show();
		else if (!strcmp(verb, "deaf"))
			deaf = 1;
		else if (!strcmp(verb, "count"))
			printf("%d descriptors, %d threads\n", entries("/proc/self/fd"), entries("/proc/self/task"));
		else if (!strcmp(verb, "unload"))
			dlclose(library);
		else
			die("no such verb", verb);
		if (!strcmp(verb, "argv"))
			argc_--;
	}
	printf("alive\n");
	return 0;
}

/*
 * stile-release: returns every output of a lane to its defined state when the gate's process can't.
 *
 *   stile-release [<release file> [<sysfs gpio folder>]]
 *
 * Run by the unit's stop step (ExecStopPost=), also after a kill or a watchdog's abort. It needs neither Node nor the disk:
 * linked statically, copied to /run at start, and told what to do by a small text file that the daemon writes there
 * (daemon/board/failsafe-file.ts) at start and whenever the fire latch changes. One target a line, the value last:
 *
 *   sysfs <global gpio number> <0|1>
 *   chip <path of the character device> <line> <0|1>
 *   sim <path of a file that stands for the wire> <0|1>
 *
 * Every target is tried, whatever becomes of the others. Exit code 0: all are in their defined state; 1: not all, and
 * standard error says which and why. Ends within 100 ms: a line that is not to be had is retried for RETRY_MS in all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* For all targets together: a killed gate's lines are freed, and udev opens an exported one, within this or not at all. */
#define RETRY_MS 60
#define RETRY_STEP_MS 2
/* A lane has at most 10 outputs. What follows is not read, and said so. */
#define MAX_TARGETS 64
#define MAX_LINE_CHARS 4352
#define MAX_PATH_CHARS 4096

static long long deadline_ms;

static long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Waits a little; 0 when the time is up. */
static int may_retry(void) {
  struct timespec step = {0, RETRY_STEP_MS * 1000000L};
  if (now_ms() >= deadline_ms) return 0;
  nanosleep(&step, NULL);
  return 1;
}

static int complain(int number, const char *what, const char *name) {
  fprintf(stderr, "stile-release: line %d: %s %s: %s\n", number, what, name, strerror(errno));
  return 1;
}

/* 0, or -1 with errno. */
static int write_text(const char *path, int flags, const char *text) {
  int fd = open(path, flags | O_CLOEXEC, 0660);
  if (fd < 0) return -1;
  ssize_t written = write(fd, text, strlen(text));
  int why = errno;
  close(fd);
  errno = why;
  if (written >= 0 && (size_t)written != strlen(text)) errno = EIO;
  return written == (ssize_t)strlen(text) ? 0 : -1;
}

static int release_sysfs(int number, const char *root, int gpio, int value) {
  char path[MAX_PATH_CHARS], name[32], text[16];
  snprintf(name, sizeof name, "gpio%d", gpio);
  snprintf(path, sizeof path, "%s/%s", root, name);
  if (access(path, F_OK) != 0) {
    char export[MAX_PATH_CHARS];
    snprintf(export, sizeof export, "%s/export", root);
    snprintf(text, sizeof text, "%d", gpio);
    /* EBUSY: exported meanwhile, or held by a driver: the next step tells. */
    if (write_text(export, O_WRONLY, text) != 0 && errno != EBUSY) return complain(number, "cannot export", name);
  }
  /* `high` and `low` set direction and level in one step; they mean the wire, whatever active_low says. */
  snprintf(path, sizeof path, "%s/%s/direction", root, name);
  for (;;) {
    if (write_text(path, O_WRONLY, value ? "high" : "low") == 0) return 0;
    if ((errno != EACCES && errno != ENOENT) || !may_retry()) break;
  }
  int why = errno;
  /* A line whose direction is not ours to set can still be an output: its level, then. */
  snprintf(path, sizeof path, "%s/%s/value", root, name);
  if (write_text(path, O_WRONLY, value ? "1" : "0") == 0) return 0;
  errno = why;
  return complain(number, "cannot set", name);
}

/* Requested as an output at its level and given back: Raspberry Pi kernels keep the level after that. */
static int release_chip(int number, const char *path, unsigned int line, int value) {
  int chip = open(path, O_RDWR | O_CLOEXEC);
  if (chip < 0) return complain(number, "cannot open", path);
  struct gpio_v2_line_request request;
  memset(&request, 0, sizeof request);
  request.num_lines = 1;
  request.offsets[0] = line;
  strcpy(request.consumer, "stile-release");
  request.config.flags = GPIO_V2_LINE_FLAG_OUTPUT;
  request.config.num_attrs = 1;
  request.config.attrs[0].mask = 1;
  request.config.attrs[0].attr.id = GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES;
  request.config.attrs[0].attr.values = value ? 1 : 0;
  int result;
  while ((result = ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request)) != 0 && errno == EBUSY && may_retry()) continue;
  int failed = result != 0 ? complain(number, "cannot claim a line of", path) : 0;
  if (!failed) close(request.fd);
  close(chip);
  return failed;
}

static int release_sim(int number, const char *path, int value) {
  return write_text(path, O_WRONLY | O_CREAT | O_TRUNC, value ? "1\n" : "0\n") == 0 ? 0 : complain(number, "cannot write", path);
}

static int malformed(int number) {
  fprintf(stderr, "stile-release: line %d: malformed; write \"sysfs <number> <0|1>\", \"chip <path> <line> <0|1>\" or \"sim <path> <0|1>\"\n", number);
  return 1;
}

/* A whole number of 0 to 65535, or -1. */
static int number_of(const char *text) {
  char *end;
  if (*text < '0' || *text > '9') return -1;
  errno = 0;
  long value = strtol(text, &end, 10);
  return errno != 0 || *end != '\0' || value > 65535 ? -1 : (int)value;
}

/* Cuts the last word off and answers it; NULL where there is none. */
static char *last_word(char *text) {
  char *space = strrchr(text, ' ');
  if (space == NULL || space == text || space[1] == '\0') return NULL;
  *space = '\0';
  return space + 1;
}

/* One line of the file: 0, or 1 after a complaint. */
static int release_line(int number, char *text, const char *root) {
  char *word = last_word(text);
  int value = word == NULL ? -1 : number_of(word);
  if (value != 0 && value != 1) return malformed(number);
  if (strncmp(text, "sysfs ", 6) == 0) {
    int gpio = number_of(text + 6);
    return gpio < 0 ? malformed(number) : release_sysfs(number, root, gpio, value);
  }
  if (strncmp(text, "chip ", 5) == 0) {
    word = last_word(text + 5);
    int line = word == NULL ? -1 : number_of(word);
    return line < 0 ? malformed(number) : release_chip(number, text + 5, (unsigned int)line, value);
  }
  if (strncmp(text, "sim ", 4) == 0 && text[4] != '\0') return release_sim(number, text + 4, value);
  return malformed(number);
}

int main(int count, char **arguments) {
  const char *path = count > 1 ? arguments[1] : "/run/stile/release.conf";
  const char *root = count > 2 ? arguments[2] : "/sys/class/gpio";
  static char text[MAX_LINE_CHARS];
  int failed = 0, number = 0, targets = 0;
  deadline_ms = now_ms() + RETRY_MS;
  FILE *file = fopen(path, "re");
  if (file == NULL) {
    fprintf(stderr, "stile-release: cannot read %s: %s; the outputs are as the process left them\n", path, strerror(errno));
    return 1;
  }
  while (fgets(text, sizeof text, file) != NULL) {
    size_t length = strcspn(text, "\n");
    number += 1;
    if (text[length] == '\0' && !feof(file)) {
      fprintf(stderr, "stile-release: line %d: longer than %d characters\n", number, MAX_LINE_CHARS - 1);
      for (int c = getc(file); c != '\n' && c != EOF; c = getc(file)) continue;
      failed = 1;
      continue;
    }
    text[length] = '\0';
    if (text[0] == '\0' || text[0] == '#') continue;
    targets += 1;
    if (targets > MAX_TARGETS) {
      fprintf(stderr, "stile-release: line %d: more than %d targets; the rest is left as it is\n", number, MAX_TARGETS);
      failed = 1;
      break;
    }
    failed |= release_line(number, text, root);
  }
  if (ferror(file)) {
    fprintf(stderr, "stile-release: cannot read all of %s: %s\n", path, strerror(errno));
    failed = 1;
  }
  fclose(file);
  return failed;
}

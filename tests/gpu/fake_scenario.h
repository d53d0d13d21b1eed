/* Reads the scenario of fake_nvml.c and answers with what it says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_GPUS 16
#define MAX_MIGS 8
#define MAX_LINES 4096

struct nvmlDevice_st { int gpu, mig; };

static struct { char key[96], value[256]; } lines[MAX_LINES];
static int line_count, any_delay;
static struct stat read_version;
static struct nvmlDevice_st devices[MAX_GPUS][1 + MAX_MIGS];
static int initialised, session_reset, lost[MAX_GPUS];

static void read_scenario(void)
{
    const char *path = getenv("FAKE_NVML_SCENARIO");
    struct stat now;
    if (!path || stat(path, &now)) return;
    if (now.st_ino == read_version.st_ino && now.st_mtim.tv_nsec == read_version.st_mtim.tv_nsec
        && now.st_mtim.tv_sec == read_version.st_mtim.tv_sec) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    char line[400];
    line_count = any_delay = 0;
    while (line_count < MAX_LINES && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%95s %255[^\n]", lines[line_count].key, lines[line_count].value) == 2) {
            any_delay |= strstr(lines[line_count].key, ".delay") != NULL;
            line_count++;
        }
    }
    fclose(file);
    read_version = now;
}

static const char *find(const char *key)
{
    for (int i = 0; i < line_count; i++)
        if (!strcmp(lines[i].key, key)) return lines[i].value;
    return NULL;
}

static long setting(const char *key) { const char *text = find(key); return text ? atol(text) : 0; }

static const char *find_for(nvmlDevice_t device, const char *name)
{
    char key[96];
    if (device->mig) snprintf(key, sizeof key, "gpu%d.mig%d.%s", device->gpu, device->mig - 1, name);
    else snprintf(key, sizeof key, "gpu%d.%s", device->gpu, name);
    const char *text = find(key);
    if (text || device->mig) return text;
    snprintf(key, sizeof key, "gpu*.%s", name);
    return find(key);
}

static void take_time(nvmlDevice_t device, const char *name)
{
    char key[96];
    snprintf(key, sizeof key, "%s.delay", name);
    struct timespec pause = {0, 10000000};
    for (long spent = 0; any_delay; spent += 10) {
        const char *milliseconds = find_for(device, key);
        if (!milliseconds || spent >= atol(milliseconds)) return;
        nanosleep(&pause, NULL);
        read_scenario();
    }
}

static void log_call(const char *what)
{
    const char *path = find("log");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s\n", what);
    fclose(file);
}

/* What every call does first: the state of driver, session and device. */
static nvmlReturn_t enter(nvmlDevice_t device)
{
    read_scenario();
    if (setting("driver")) return setting("driver");
    if (!initialised || session_reset != setting("reset")) return NVML_ERROR_UNINITIALIZED;
    if (!device) return NVML_SUCCESS;
    if (device < &devices[0][0] || device >= &devices[MAX_GPUS][0]) return NVML_ERROR_INVALID_ARGUMENT;
    const char *gone = find_for(&devices[device->gpu][0], "lost");
    if (gone) lost[device->gpu] = 1;
    return lost[device->gpu] ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

static nvmlReturn_t text_of(nvmlDevice_t device, const char *name, const char **text)
{
    nvmlReturn_t state = device ? enter(device) : NVML_ERROR_INVALID_ARGUMENT;
    if (state) return state;
    take_time(device, name);
    *text = find_for(device, name);
    if (!*text) return NVML_ERROR_NOT_SUPPORTED;
    return **text == '!' ? atol(*text + 1) : NVML_SUCCESS;
}

static nvmlReturn_t copy_of(nvmlDevice_t device, const char *name, char *to, uint length)
{
    const char *text;
    nvmlReturn_t state = text_of(device, name, &text);
    if (state) return state;
    if (strlen(text) >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(to, text);
    return NVML_SUCCESS;
}

static nvmlReturn_t long_of(nvmlDevice_t device, const char *name, u64 *to)
{
    const char *text;
    nvmlReturn_t state = text_of(device, name, &text);
    if (!state) *to = strtoull(text, NULL, 10);
    return state;
}

static nvmlReturn_t uint_of(nvmlDevice_t device, const char *name, uint *to)
{
    u64 number;
    nvmlReturn_t state = long_of(device, name, &number);
    if (!state) *to = (uint)number;
    return state;
}

static const char *numbered(char *buffer, const char *name, uint number)
{
    sprintf(buffer, "%s.%u", name, number);
    return buffer;
}

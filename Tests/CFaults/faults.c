// What fault tests put beneath a process by LD_PRELOAD: a wall clock that jumps, a disk that forgets.
//
// MILLRACE_TEST_CLOCK=FILE: eight bytes, little-endian: so many seconds are added to the wall clock, from the moment
// they are written on. Clocks that only measure spans are left alone.
//
// MILLRACE_TEST_DISK=LIVE:KEPT: two directories. What was synced of a file below LIVE is what KEPT has of it; a sync of
// a directory keeps its names. So KEPT is what a power cut leaves at least. As on ext4, a sync of a new file keeps its
// name too. KEPT/.inodes has each file by its number, for names that change; a line of KEPT/.log is one sync done.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// MARK: Clock

static _Atomic int64_t *offset_seconds;

static void open_clock(void) {
    const char *path = getenv("MILLRACE_TEST_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *place = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    if (place != MAP_FAILED) offset_seconds = place;
    close(file);
}

static int64_t offset(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_clock);
    return offset_seconds == NULL ? 0 : atomic_load(offset_seconds);
}

int clock_gettime(clockid_t clock, struct timespec *result) {
    int status = (int)syscall(SYS_clock_gettime, clock, result);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) result->tv_sec += offset();
    return status;
}

int gettimeofday(struct timeval *restrict result, void *restrict zone) {
    int status = (int)syscall(SYS_gettimeofday, result, zone);
    if (status == 0) result->tv_sec += offset();
    return status;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL) *result = now.tv_sec;
    return now.tv_sec;
}

// MARK: Disk

static char live[PATH_MAX], kept[PATH_MAX];
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void open_disk(void) {
    const char *both = getenv("MILLRACE_TEST_DISK");
    const char *colon = both == NULL ? NULL : strchr(both, ':');
    if (colon == NULL) return;
    snprintf(live, sizeof live, "%.*s", (int)(colon - both), both);
    snprintf(kept, sizeof kept, "%s", colon + 1);
}

static void make_parents(const char *path) {
    char part[PATH_MAX];
    for (const char *end = strchr(path + 1, '/'); end != NULL; end = strchr(end + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(end - path), path);
        mkdir(part, 0755);
    }
}

/// Makes `name` the file of that number; a death in the middle leaves the one before.
static void link_inode(ino_t number, const char *name) {
    char inode[PATH_MAX + 64], fresh[PATH_MAX + 64];
    snprintf(inode, sizeof inode, "%s/.inodes/%lu", kept, (unsigned long)number);
    snprintf(fresh, sizeof fresh, "%s/.link", kept);
    make_parents(name);
    unlink(fresh);
    if (link(inode, fresh) != 0) {
        // Never synced: the name alone is there.
        int empty = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (empty >= 0) close(empty);
    }
    rename(fresh, name);
}

static void keep_file(const char *path, const struct stat *found, const char *name) {
    char fresh[PATH_MAX + 64], inode[PATH_MAX + 64];
    snprintf(fresh, sizeof fresh, "%s/.inodes/fresh", kept);
    snprintf(inode, sizeof inode, "%s/.inodes/%lu", kept, (unsigned long)found->st_ino);
    make_parents(fresh);
    int from = open(path, O_RDONLY | O_CLOEXEC), to = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    off_t at = 0;
    while (from >= 0 && to >= 0 && at < found->st_size) {
        ssize_t count = copy_file_range(from, &at, to, NULL, (size_t)(found->st_size - at), 0);
        if (count <= 0) break;
    }
    if (to >= 0) {
        ftruncate(to, found->st_size);
        close(to);
    }
    if (from >= 0) close(from);
    rename(fresh, inode);
    link_inode(found->st_ino, name);
}

static void keep_names(const char *path, const char *name) {
    char one[PATH_MAX + 512];
    struct stat found;
    DIR *directory = opendir(path);
    if (directory == NULL) return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        snprintf(one, sizeof one, "%s/%s", path, entry->d_name);
        if (lstat(one, &found) != 0 || !S_ISREG(found.st_mode)) continue;
        struct stat inode, known;
        char numbered[PATH_MAX + 64];
        snprintf(numbered, sizeof numbered, "%s/.inodes/%lu", kept, (unsigned long)found.st_ino);
        snprintf(one, sizeof one, "%s/%s", name, entry->d_name);
        int is_kept = stat(one, &known) == 0;
        if (is_kept && (stat(numbered, &inode) != 0 || inode.st_ino == known.st_ino)) continue;
        link_inode(found.st_ino, one);
    }
    closedir(directory);
    if ((directory = opendir(name)) == NULL) return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        snprintf(one, sizeof one, "%s/%s", path, entry->d_name);
        if (lstat(one, &found) == 0) continue;
        snprintf(one, sizeof one, "%s/%s", name, entry->d_name);
        unlink(one);
    }
    closedir(directory);
}

static void synced(int file) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_disk);
    if (live[0] == 0) return;
    char number[64], path[PATH_MAX], name[2 * PATH_MAX];
    snprintf(number, sizeof number, "/proc/self/fd/%d", file);
    ssize_t count = readlink(number, path, sizeof path - 1);
    struct stat found;
    if (count <= 0 || fstat(file, &found) != 0 || found.st_nlink == 0) return;
    path[count] = 0;
    size_t length = strlen(live);
    if (strncmp(path, live, length) != 0 || (path[length] != 0 && path[length] != '/')) return;
    snprintf(name, sizeof name, "%s%s", kept, path + length);
    pthread_mutex_lock(&one_at_a_time);
    if (S_ISDIR(found.st_mode)) keep_names(path, name); else keep_file(path, &found, name);
    char log[PATH_MAX + 64];
    snprintf(log, sizeof log, "%s/.log", kept);
    int lines = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (lines >= 0) {
        dprintf(lines, "%s\n", path + length);
        close(lines);
    }
    pthread_mutex_unlock(&one_at_a_time);
}

int fsync(int file) {
    int status = (int)syscall(SYS_fsync, file);
    if (status == 0) synced(file);
    return status;
}

int fdatasync(int file) {
    int status = (int)syscall(SYS_fdatasync, file);
    if (status == 0) synced(file);
    return status;
}

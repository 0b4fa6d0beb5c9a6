// The SPECT projector on CUDA: what _spect_cpu.py does, for all views of a subset and all items of a batch at once.
//
// Lanes (slices, or slices times items) are contiguous and belong to neighbouring threads. REAL is float or double.
// Positions are worked out in double, since a float has no digits left for fractions of a voxel; differences of
// positions are small and stay in REAL. Nothing is accumulated by atomics: results repeat bit for bit.
//
//   levels : (item, view, level, column, padded lane)     frame : (item, view, plane, column, lane)

#define LANES_PER_THREAD 4

struct Sizes {
    int nx, ny, lanes;           // image
    int planes, columns;         // frame
    int n_levels, padded, skip;  // levels: padded lanes, and those before the first slice
    int mirror_low, mirror_high; // whether the body goes on at an end of the padded slices
    int n_views, first_view;     // views of this launch, and the number of the first one
    int bins, rows, stride;      // projections: rows * stride lanes
    int ray_driven, attenuated, absorbed_items;
    double weight;
};

// The last arguments of every kernel: plain numbers, which every launcher can pass.
#define SIZES                                                                                                       \
    int nx, int ny, int lanes, int planes, int columns, int n_levels, int padded, int skip, int mirror_low,         \
    int mirror_high, int n_views, int first_view, int bins, int n_rows, int stride, int ray_driven, int attenuated, int absorbed_items, double weight
#define MAKE_SIZES                                                                                                  \
    const Sizes s = {nx, ny, lanes, planes, columns, n_levels, padded, skip, mirror_low, mirror_high, n_views,      \
                     first_view, bins, n_rows, stride, ray_driven, attenuated, absorbed_items, weight};

__device__ inline REAL spline(REAL t) {
    t = t < 0 ? -t : t;
    if (t < REAL(0.5)) return REAL(0.75) - t * t;
    if (t < REAL(1.5)) return REAL(0.5) * (REAL(1.5) - t) * (REAL(1.5) - t);
    return REAL(0);
}

__device__ inline REAL tent(REAL t) {
    t = t < 0 ? -t : t;
    return t < REAL(1) ? REAL(1) - t : REAL(0);
}

__device__ inline REAL magnitude(double x) { return REAL(x < 0 ? -x : x); }

__device__ inline int floor_of(double x) {
    int i = int(x);
    return i > x ? i - 1 : i;
}

__device__ inline int ceil_of(double x) { return -floor_of(-x); }

// Which of n slices stands at an index of the line that goes on mirrored at its ends; -1 where nothing does.
__device__ inline int mirrored(int k, int n, const Sizes& s) {
    while (k < 0 || k >= n) {
        if (k < 0 && s.mirror_low) k = -1 - k;
        else if (k >= n && s.mirror_high) k = 2 * n - 1 - k;
        else return -1;
    }
    return k;
}

// sum[q] += weight * source[q-th lane of this thread]
__device__ inline void add_lanes(REAL* sum, REAL weight, const REAL* source, int lane, int lanes, int step) {
    for (int q = 0; q < LANES_PER_THREAD; ++q)
        if (lane + q * step < lanes) sum[q] += weight * source[lane + q * step];
}

// The image at (fi, fj), bilinear between voxel centres and zero outside.
__device__ inline void add_bilinear(REAL* sum, REAL scale, const REAL* image, double fi, double fj, const Sizes& s,
                                    int lane, int step) {
    const int i0 = floor_of(fi), j0 = floor_of(fj);
    const REAL x = REAL(fi - i0), y = REAL(fj - j0);
    for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 2; ++b) {
            const int i = i0 + a, j = j0 + b;
            if (i < 0 || i >= s.nx || j < 0 || j >= s.ny) continue;
            const REAL w = scale * (a ? x : 1 - x) * (b ? y : 1 - y);
            add_lanes(sum, w, image + (size_t(i) * s.ny + j) * s.lanes, lane, s.lanes, step);
        }
}

// The sum of the voxels that are splatted at the frame sample whose image position is (fi, fj).
__device__ inline void add_splatted(REAL* sum, const REAL* image, double fi, double fj, const double* to_frame,
                                    const double* to_image, const Sizes& s, int lane, int step) {
    const double reach_i = magnitude(to_image[1]) + 1.5 * magnitude(to_image[2]);
    const double reach_j = magnitude(to_image[4]) + 1.5 * magnitude(to_image[5]);
    const int i_first = max(0, ceil_of(fi - reach_i)), i_last = min(s.nx - 1, floor_of(fi + reach_i));
    const int j_first = max(0, ceil_of(fj - reach_j)), j_last = min(s.ny - 1, floor_of(fj + reach_j));
    for (int i = i_first; i <= i_last; ++i)
        for (int j = j_first; j <= j_last; ++j) {
            const REAL x = REAL(i - fi), y = REAL(j - fj);
            const REAL w = tent(REAL(to_frame[1]) * x + REAL(to_frame[2]) * y)
                         * spline(REAL(to_frame[4]) * x + REAL(to_frame[5]) * y);
            if (w > 0) add_lanes(sum, w, image + (size_t(i) * s.ny + j) * s.lanes, lane, s.lanes, step);
        }
}

// One thread follows one column of one view from the detector into the body, for a few lanes.
// With `levels`, planes are shared out between blur levels; with `frame`, every plane is kept.
extern "C" __global__ void look_into(const REAL* images, const REAL* absorbed, const double* to_frames,
                                     const double* to_images, const int* rows, const int* view_class, const int* level,
                                     const REAL* upper, REAL* levels, REAL* frame, SIZES) {
    MAKE_SIZES
    const int lane = blockIdx.x * blockDim.x * LANES_PER_THREAD + threadIdx.x, step = blockDim.x;
    const int u = blockIdx.y * blockDim.y + threadIdx.y;
    const int item = blockIdx.z / s.n_views, view = blockIdx.z % s.n_views, v = s.first_view + view;
    if (lane >= s.lanes || u >= s.columns) return;
    const double *to_frame = to_frames + 6 * v, *to_image = to_images + 6 * v;
    const REAL* image = images + size_t(item) * s.nx * s.ny * s.lanes;
    const REAL* mu = absorbed + size_t(s.absorbed_items > 1 ? item : 0) * s.nx * s.ny * s.lanes;
    const int c = view_class[v];
    REAL remaining[LANES_PER_THREAD], low[LANES_PER_THREAD], high[LANES_PER_THREAD];
    for (int q = 0; q < LANES_PER_THREAD; ++q) remaining[q] = 1, low[q] = high[q] = 0;
    int current = 0;
    for (int d = 0; d < s.planes; ++d) {
        const int* reached = rows + (size_t(v) * s.planes + d) * 2;
        const bool inside = u >= reached[0] && u < reached[1];
        REAL value[LANES_PER_THREAD];
        for (int q = 0; q < LANES_PER_THREAD; ++q) value[q] = 0;
        if (inside) {
            const double fi = to_image[0] + to_image[1] * d + to_image[2] * u;
            const double fj = to_image[3] + to_image[4] * d + to_image[5] * u;
            if (s.ray_driven) add_bilinear(value, REAL(s.weight), image, fi, fj, s, lane, step);
            else add_splatted(value, image, fi, fj, to_frame, to_image, s, lane, step);
            if (s.attenuated) {
                REAL lost[LANES_PER_THREAD];
                for (int q = 0; q < LANES_PER_THREAD; ++q) lost[q] = 0;
                add_bilinear(lost, REAL(1), mu, fi, fj, s, lane, step);
                for (int q = 0; q < LANES_PER_THREAD; ++q) {
                    const REAL half = 1 - lost[q], middle = remaining[q] * half;
                    value[q] *= middle;
                    remaining[q] = middle * half;
                }
            }
        }
        if (frame) {
            REAL* out = frame + (((size_t(item) * s.n_views + view) * s.planes + d) * s.columns + u) * s.lanes;
            for (int q = 0; q < LANES_PER_THREAD; ++q)
                if (lane + q * step < s.lanes) out[lane + q * step] = value[q];
            continue;
        }
        REAL* out = levels + (((size_t(item) * s.n_views + view) * s.n_levels) * s.columns + u) * s.padded + s.skip;
        const size_t next = size_t(s.columns) * s.padded;
        for (; current < level[c * s.planes + d]; ++current)
            for (int q = 0; q < LANES_PER_THREAD; ++q) {
                if (lane + q * step < s.lanes) out[current * next + lane + q * step] = low[q];
                low[q] = high[q];
                high[q] = 0;
            }
        const REAL share = upper[c * s.planes + d];
        for (int q = 0; q < LANES_PER_THREAD; ++q) {
            low[q] += (1 - share) * value[q];
            high[q] += share * value[q];
            if (d + 1 < s.planes || lane + q * step >= s.lanes) continue;
            out[current * next + lane + q * step] = low[q];
            if (current + 1 < s.n_levels) out[(current + 1) * next + lane + q * step] = high[q];
        }
    }
}

// levels[to] (+)= levels[from] blurred along u and z by the taps of a step.
extern "C" __global__ void blur_level(REAL* levels, const REAL* taps, const int* view_class, int from, int to, int step_of,
                                      int radius, int accumulate, SIZES) {
    MAKE_SIZES
    const int lane = blockIdx.x * blockDim.x + threadIdx.x, u = blockIdx.y * blockDim.y + threadIdx.y;
    if (lane >= s.padded || u >= s.columns) return;
    const int view = blockIdx.z % s.n_views, width = 2 * radius + 1;
    const int slices = s.padded / s.stride, slice = lane / s.stride, part = lane % s.stride;
    const REAL* along_u = taps + (size_t(view_class[s.first_view + view]) * s.n_levels + step_of) * 2 * width;
    const REAL* along_z = along_u + width;
    const size_t plane = size_t(s.columns) * s.padded;
    const REAL* source = levels + (size_t(blockIdx.z) * s.n_levels + from) * plane;
    REAL* target = levels + (size_t(blockIdx.z) * s.n_levels + to) * plane + size_t(u) * s.padded + lane;
    REAL total = 0;
    for (int a = -radius; a <= radius; ++a) {
        if (u + a < 0 || u + a >= s.columns || along_u[a + radius] == 0) continue;
        const REAL* row = source + size_t(u + a) * s.padded;
        REAL sum = 0;
        for (int b = -radius; b <= radius; ++b) {
            const int k = mirrored(slice + b, slices, s);
            if (k >= 0) sum += along_z[b + radius] * row[k * s.stride + part];
        }
        total += along_u[a + radius] * sum;
    }
    *target = accumulate ? *target + total : total;
}

// projections = the lowest levels through the bands along u and z.
extern "C" __global__ void detect(const REAL* levels, const int* u_start, const REAL* u_weights, const int* z_start,
                                  const REAL* z_weights, const int* view_class, int u_width, int z_width, int used,
                                  REAL* projections, int all_views, SIZES) {
    MAKE_SIZES
    const int lane = blockIdx.x * blockDim.x + threadIdx.x, p = blockIdx.y * blockDim.y + threadIdx.y;
    const int item = blockIdx.z / s.n_views, view = blockIdx.z % s.n_views, v = s.first_view + view;
    if (lane >= s.rows * s.stride || p >= s.bins) return;
    const int row = lane / s.stride, part = lane % s.stride;
    REAL total = 0;
    for (int k = 0; k < used; ++k) {
        const int c = view_class[v] * used + k;
        const REAL* plane = levels + (size_t(blockIdx.z) * s.n_levels + k) * s.columns * s.padded;
        const int u0 = u_start[c * s.bins + p], z0 = z_start[c * s.rows + row];
        for (int a = 0; a < u_width; ++a) {
            const REAL wu = u_weights[(size_t(c) * s.bins + p) * u_width + a];
            if (wu == 0) continue;
            const REAL* line = plane + size_t(u0 + a) * s.padded + part;
            REAL sum = 0;
            for (int b = 0; b < z_width; ++b)
                sum += z_weights[(size_t(c) * s.rows + row) * z_width + b] * line[(z0 + b) * s.stride];
            total += wu * sum;
        }
    }
    projections[((size_t(item) * all_views + v) * s.bins + p) * s.rows * s.stride + lane] = total;
}

// The transpose of `detect`: the lowest levels from projections, through the transposed bands.
extern "C" __global__ void detect_adjoint(const REAL* projections, const int* u_start, const REAL* u_weights,
                                          const int* z_start, const REAL* z_weights, const int* view_class, int u_width,
                                          int z_width, int used, REAL* levels, int all_views, SIZES) {
    MAKE_SIZES
    const int lane = blockIdx.x * blockDim.x + threadIdx.x, u = blockIdx.y * blockDim.y + threadIdx.y;
    const int item = blockIdx.z / s.n_views, view = blockIdx.z % s.n_views, v = s.first_view + view;
    if (lane >= s.padded || u >= s.columns) return;
    const int slices = s.padded / s.stride, slice = lane / s.stride, part = lane % s.stride;
    const REAL* data = projections + (size_t(item) * all_views + v) * s.bins * s.rows * s.stride + part;
    for (int k = 0; k < used; ++k) {
        const int c = view_class[v] * used + k;
        const int p0 = u_start[c * s.columns + u], q0 = z_start[c * slices + slice];
        REAL total = 0;
        for (int a = 0; a < u_width; ++a) {
            const REAL wu = u_weights[(size_t(c) * s.columns + u) * u_width + a];
            if (wu == 0) continue;
            const REAL* line = data + size_t(p0 + a) * s.rows * s.stride;
            REAL sum = 0;
            for (int b = 0; b < z_width; ++b)
                sum += z_weights[(size_t(c) * slices + slice) * z_width + b] * line[(q0 + b) * s.stride];
            total += wu * sum;
        }
        levels[((size_t(blockIdx.z) * s.n_levels + k) * s.columns + u) * s.padded + lane] = total;
    }
}

// The transpose of `look_into` as far as the frame: every plane from its two levels (or from frame itself), attenuated.
extern "C" __global__ void look_out(const REAL* levels, const REAL* absorbed, const double* to_images, const int* rows,
                                    const int* view_class, const int* level, const REAL* upper, REAL* frame, SIZES) {
    MAKE_SIZES
    const int lane = blockIdx.x * blockDim.x * LANES_PER_THREAD + threadIdx.x, step = blockDim.x;
    const int u = blockIdx.y * blockDim.y + threadIdx.y;
    const int item = blockIdx.z / s.n_views, view = blockIdx.z % s.n_views, v = s.first_view + view;
    if (lane >= s.lanes || u >= s.columns) return;
    const double* to_image = to_images + 6 * v;
    const REAL* mu = absorbed + size_t(s.absorbed_items > 1 ? item : 0) * s.nx * s.ny * s.lanes;
    const int c = view_class[v];
    const size_t next = size_t(s.columns) * s.padded;
    REAL remaining[LANES_PER_THREAD];
    for (int q = 0; q < LANES_PER_THREAD; ++q) remaining[q] = 1;
    for (int d = 0; d < s.planes; ++d) {
        const int* reached = rows + (size_t(v) * s.planes + d) * 2;
        if (u < reached[0] || u >= reached[1]) continue;
        REAL survival[LANES_PER_THREAD];
        for (int q = 0; q < LANES_PER_THREAD; ++q) survival[q] = 1;
        if (s.attenuated) {
            REAL lost[LANES_PER_THREAD];
            for (int q = 0; q < LANES_PER_THREAD; ++q) lost[q] = 0;
            const double fi = to_image[0] + to_image[1] * d + to_image[2] * u;
            const double fj = to_image[3] + to_image[4] * d + to_image[5] * u;
            add_bilinear(lost, REAL(1), mu, fi, fj, s, lane, step);
            for (int q = 0; q < LANES_PER_THREAD; ++q) {
                const REAL half = 1 - lost[q];
                survival[q] = remaining[q] * half;
                remaining[q] = survival[q] * half;
            }
        }
        REAL* out = frame + (((size_t(item) * s.n_views + view) * s.planes + d) * s.columns + u) * s.lanes;
        const int k = level[c * s.planes + d];
        const REAL share = upper[c * s.planes + d];
        const REAL* low = levels + ((size_t(blockIdx.z) * s.n_levels + k) * s.columns + u) * s.padded + s.skip;
        for (int q = 0; q < LANES_PER_THREAD; ++q) {
            const int l = lane + q * step;
            if (l >= s.lanes) continue;
            REAL value = levels ? (1 - share) * low[l] : out[l];
            if (levels && share > 0) value += share * low[next + l];
            out[l] = survival[q] * value;
        }
    }
}

// images += what the voxels collect from the frames of this launch's views, in the order of the views.
extern "C" __global__ void gather(const REAL* frame, const double* to_frames, const double* to_images, const int* rows,
                                  REAL* images, SIZES) {
    MAKE_SIZES
    const int lane = blockIdx.x * blockDim.x * LANES_PER_THREAD + threadIdx.x, step = blockDim.x;
    const int voxel = blockIdx.y * blockDim.y + threadIdx.y, item = blockIdx.z;
    if (lane >= s.lanes || voxel >= s.nx * s.ny) return;
    const int i = voxel / s.ny, j = voxel % s.ny;
    REAL total[LANES_PER_THREAD];
    for (int q = 0; q < LANES_PER_THREAD; ++q) total[q] = 0;
    for (int view = 0; view < s.n_views; ++view) {
        const double* to_frame = to_frames + 6 * (s.first_view + view);
        const double* to_image = to_images + 6 * (s.first_view + view);
        const int* reached = rows + size_t(s.first_view + view) * s.planes * 2;
        const double fd = to_frame[0] + to_frame[1] * i + to_frame[2] * j;
        const double fu = to_frame[3] + to_frame[4] * i + to_frame[5] * j;
        const REAL* planes = frame + (size_t(item) * s.n_views + view) * s.planes * s.columns * s.lanes;
        const double reach_d = s.ray_driven ? magnitude(to_frame[1]) + magnitude(to_frame[2]) : 1.0;
        const double reach_u = s.ray_driven ? magnitude(to_frame[4]) + magnitude(to_frame[5]) : 1.5;
        const int d_first = max(0, ceil_of(fd - reach_d)), d_last = min(s.planes - 1, floor_of(fd + reach_d));
        const int u_first = max(0, ceil_of(fu - reach_u)), u_last = min(s.columns - 1, floor_of(fu + reach_u));
        for (int d = d_first; d <= d_last; ++d)
            for (int u = u_first; u <= u_last; ++u) {
                if (u < reached[2 * d] || u >= reached[2 * d + 1]) continue;
                const REAL y = REAL(d - fd), x = REAL(u - fu);
                const REAL w = s.ray_driven
                    ? REAL(s.weight) * tent(REAL(to_image[1]) * y + REAL(to_image[2]) * x)
                                     * tent(REAL(to_image[4]) * y + REAL(to_image[5]) * x)
                    : tent(y) * spline(x);
                if (w > 0) add_lanes(total, w, planes + (size_t(d) * s.columns + u) * s.lanes, lane, s.lanes, step);
            }
    }
    for (int q = 0; q < LANES_PER_THREAD; ++q)
        if (lane + q * step < s.lanes) images[(size_t(item) * s.nx * s.ny + voxel) * s.lanes + lane + q * step] += total[q];
}

// out[u, k] += the sum over taps (nu, nz) of taps[a, b] * wide[u + nu / 2 - a, k + nz - 1 - b], zero outside.
extern "C" __global__ void convolve(const REAL* wide, const REAL* taps, REAL* out, int nu, int nz, int columns,
                                    int wide_lanes, int lanes) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x, u = blockIdx.y * blockDim.y + threadIdx.y;
    if (k >= lanes || u >= columns) return;
    REAL total = 0;
    for (int a = 0; a < nu; ++a) {
        const int source = u + nu / 2 - a;
        if (source < 0 || source >= columns) continue;
        const REAL* row = wide + size_t(source) * wide_lanes + k + nz - 1;
        for (int b = 0; b < nz; ++b) total += taps[size_t(a) * nz + b] * row[-b];
    }
    out[size_t(u) * lanes + k] += total;
}

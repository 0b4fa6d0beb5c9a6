// The priors on pairs of neighbours on CUDA: what _pairs_cpu.py does, for all items of a batch at once.
//
// REAL is float or double. Every thread gathers what belongs to its own voxel from the neighbours on both sides, so
// there are no atomics and results repeat bit for bit; psi is worked out twice for it. `kind` and `wanted` are the same
// in all threads.

enum Kind { QUADRATIC, LOG_COSH, HUBER, HYPERBOLIC, RELATIVE };
enum Wanted { SLOPE, PRODUCT, DIAGONAL, ABOVE, BEND };

// Everything but the images. first, second: delta, or gamma and epsilon (see the potentials in _pairs_cpu.py).
struct Prior {
    const int* steps;
    const REAL* weights;
    const REAL* kappa;
    const REAL* guide;
    const unsigned* chosen;
    REAL first, second;
    int kind, wanted, n_steps, once, has_kappa, has_guide, has_chosen, nx, ny, nz;
};

__device__ inline REAL size_of(REAL x) { return x < 0 ? -x : x; }
__device__ inline REAL larger(REAL a, REAL b) { return a > b ? a : b; }
__device__ inline REAL smaller(REAL a, REAL b) { return a < b ? a : b; }

// tanh by expm1, which keeps its digits where fast arithmetic is asked for
__device__ inline REAL tanh_of(REAL t) {
    const REAL e = REAL(expm1(-2 * size_of(t)));
    return (t < 0 ? e : -e) / (2 + e);
}

__device__ REAL psi(const Prior& p, REAL a, REAL b) {
    const REAL d = a - b, size = size_of(d), delta = p.first;
    switch (p.kind) {
        case QUADRATIC: return d * d / 2;
        case LOG_COSH: {
            const REAL t = size / delta, q = t * t;
            if (t < REAL(0.2)) {  // the sum below has no digits left there
                const REAL r = REAL(31) / 14175 - q * (REAL(691) / 935550);
                return delta * delta * q * (REAL(0.5) - q * (REAL(1) / 12 - q * (REAL(1) / 45 - q * (REAL(17) / 2520 - q * r))));
            }
            return delta * delta * (t + REAL(log1p(exp(-2 * t))) - REAL(0.69314718055994530942));
        }
        case HUBER: {
            const REAL slope = smaller(size, delta);
            return slope * (size - slope / 2);
        }
        case HYPERBOLIC: return d * d / (1 + REAL(sqrt(1 + d / delta * (d / delta))));
        default: return d * d / (a + b + p.first * size + p.second);
    }
}

// The derivative of psi by a; that by b is slope(b, a).
__device__ REAL slope(const Prior& p, REAL a, REAL b) {
    const REAL d = a - b, delta = p.first;
    switch (p.kind) {
        case QUADRATIC: return d;
        case LOG_COSH: return delta * tanh_of(d / delta);
        case HUBER: return smaller(larger(d, -delta), delta);
        case HYPERBOLIC: return d / REAL(sqrt(1 + d / delta * (d / delta)));
        default: {
            const REAL q = d / (a + b + p.first * size_of(d) + p.second);
            return 2 * q - q * (q + p.first * size_of(q));
        }
    }
}

// The second derivatives of psi: by a twice, and by a and b.
__device__ void second(const Prior& p, REAL a, REAL b, REAL* aa, REAL* ab) {
    const REAL d = a - b, delta = p.first;
    switch (p.kind) {
        case QUADRATIC: *aa = 1; break;
        case LOG_COSH: {
            const REAL t = tanh_of(d / delta);
            *aa = 1 - t * t;
            break;
        }
        case HUBER: *aa = size_of(d) <= delta ? 1 : 0; break;
        case HYPERBOLIC: {
            const REAL r = 1 / (1 + d / delta * (d / delta));
            *aa = r * REAL(sqrt(r));
            break;
        }
        default: {
            const REAL r = 1 / (a + b + p.first * size_of(d) + p.second);
            const REAL u = (2 * a + p.second) * r, v = (2 * b + p.second) * r;
            *aa = 2 * r * v * v;
            *ab = -2 * r * u * v;
            return;
        }
    }
    *ab = -*aa;
}

// The curvature, for a, of a parabola above psi.
__device__ REAL above(const Prior& p, REAL a, REAL b) {
    const REAL d = a - b, delta = p.first;
    switch (p.kind) {
        case QUADRATIC: return 2;
        case LOG_COSH: {
            const REAL t = d / delta;
            return t != 0 ? 2 * tanh_of(t) / t : REAL(2);
        }
        case HUBER: return 2 * delta / larger(size_of(d), delta);
        case HYPERBOLIC: return 2 / REAL(sqrt(1 + d / delta * (d / delta)));
        default: return 4 / (2 * b + p.second);
    }
}

// The derivatives of above(a, b): by a, and by b.
__device__ void bends(const Prior& p, REAL a, REAL b, REAL* aa, REAL* ab) {
    const REAL d = a - b, delta = p.first, t = d / delta;
    switch (p.kind) {
        case QUADRATIC: *aa = 0; break;
        case LOG_COSH: {
            const REAL h = tanh_of(t);
            *aa = size_of(t) < REAL(0.05)  // the difference has no digits left there
                      ? -4 * t * (REAL(1) / 3 - t * t * (REAL(4) / 15 - t * t * (REAL(17) / 105))) / delta
                      : 2 * ((1 - h * h) - h / t) / (t * delta);
            break;
        }
        case HUBER: {
            const REAL size = larger(size_of(d), delta);
            *aa = size_of(d) > delta ? -2 * delta * d / (size * size * size) : REAL(0);
            break;
        }
        case HYPERBOLIC: {
            const REAL r = 1 / (1 + t * t);
            *aa = -2 * t * r * REAL(sqrt(r)) / delta;
            break;
        }
        default: {
            const REAL r = 2 / (2 * b + p.second);
            *aa = 0;
            *ab = -2 * r * r;
            return;
        }
    }
    *ab = -*aa;
}

// The weight of the pair of step s between voxels j and k, its first and its second.
__device__ REAL weight_of(const Prior& p, int s, int j, int k) {
    REAL w = p.weights[s];
    if (p.has_kappa) w *= p.kappa[j] * p.kappa[k];
    if (p.has_guide) {
        const REAL d = p.guide[j] - p.guide[k];
        w /= 1 + d * d;
    }
    if (p.has_chosen) {
        const int of_j = (p.chosen[j] >> s) & 1, of_k = (p.chosen[k] >> (s + 13)) & 1;
        w *= p.once ? REAL(of_j | of_k) : REAL(of_j + of_k) / 2;
    }
    return w;
}

// The voxel a step away, or -1 outside.
__device__ int neighbour(const Prior& p, int s, int sign, int x, int y, int z) {
    const int i = x + sign * p.steps[3 * s], j = y + sign * p.steps[3 * s + 1], k = z + sign * p.steps[3 * s + 2];
    if (i < 0 || i >= p.nx || j < 0 || j >= p.ny || k < 0 || k >= p.nz) return -1;
    return (i * p.ny + j) * p.nz + k;
}

// What is wanted of the pair (a, b) for a; (u, v) is the direction.
__device__ REAL term(const Prior& p, REAL a, REAL b, REAL u, REAL v) {
    if (p.wanted == SLOPE) return slope(p, a, b);
    if (p.wanted == ABOVE) return above(p, a, b);
    REAL aa, ab;
    if (p.wanted == BEND) {
        REAL bb, ba;
        bends(p, a, b, &aa, &ab);
        bends(p, b, a, &bb, &ba);
        return u * aa + v * ba;
    }
    second(p, a, b, &aa, &ab);
    return p.wanted == DIAGONAL ? aa : aa * u + ab * v;
}

// One thread: one voxel of one item.
extern "C" __global__ void gather_pairs(const REAL* images, const REAL* directions, const int* steps,
                                        const REAL* weights, const REAL* kappa, const REAL* guide,
                                        const unsigned* chosen, REAL* out, REAL first, REAL second, int kind,
                                        int wanted, int n_steps, int once, int has_kappa, int has_guide,
                                        int has_chosen, int nx, int ny, int nz) {
    const Prior p = {steps, weights, kappa, guide, chosen, first, second, kind, wanted, n_steps,
                     once, has_kappa, has_guide, has_chosen, nx, ny, nz};
    const int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= nx * ny * nz) return;
    const size_t item = size_t(blockIdx.z) * nx * ny * nz;
    const REAL* x = images + item;
    const REAL* v = directions + item;
    REAL sum = 0;
    for (int s = 0; s < n_steps; ++s) {
        const int after = neighbour(p, s, 1, j / (ny * nz), j / nz % ny, j % nz);
        const int before = neighbour(p, s, -1, j / (ny * nz), j / nz % ny, j % nz);
        if (after >= 0) sum += weight_of(p, s, j, after) * term(p, x[j], x[after], v[j], v[after]);
        if (before >= 0) sum += weight_of(p, s, before, j) * term(p, x[j], x[before], v[j], v[before]);
    }
    out[item + j] = sum;
}

// One thread: the sum of w psi over a column along y, of every pair at its first voxel.
extern "C" __global__ void sum_pairs(const REAL* images, const REAL* directions, const int* steps, const REAL* weights,
                                     const REAL* kappa, const REAL* guide, const unsigned* chosen, double* out,
                                     REAL first, REAL second, int kind, int wanted, int n_steps, int once,
                                     int has_kappa, int has_guide, int has_chosen, int nx, int ny, int nz) {
    const Prior p = {steps, weights, kappa, guide, chosen, first, second, kind, wanted, n_steps,
                     once, has_kappa, has_guide, has_chosen, nx, ny, nz};
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= nx * nz) return;
    const REAL* image = images + size_t(blockIdx.z) * nx * ny * nz;
    double sum = 0;
    for (int y = 0; y < ny; ++y) {
        const int j = (column / nz * ny + y) * nz + column % nz;
        for (int s = 0; s < n_steps; ++s) {
            const int k = neighbour(p, s, 1, column / nz, y, column % nz);
            if (k >= 0) sum += double(weight_of(p, s, j, k) * psi(p, image[j], image[k]));
        }
    }
    out[size_t(blockIdx.z) * nx * nz + column] = sum;
}

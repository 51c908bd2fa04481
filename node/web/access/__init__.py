"""Who looks at the page, and what they may do: start with `guard`.

What routes and templates need to know:

- A route names `Viewer` or `Operator` (`actor`) as the type of a parameter. The guard has asked for
  a login before, so that even a route that forgot to is closed.
- `request.state.actor`, `.address`, `.csrf_token` and `.has_session` are set for every request.
- Whatever is not GET or HEAD needs the CSRF token: a form in its field `csrf_token`, a script in
  its header `X-CSRF-Token`. Requests with a bearer token need none.
- A page that somebody else wrote (the report of a case) is answered within `headers.sandboxed`.
"""

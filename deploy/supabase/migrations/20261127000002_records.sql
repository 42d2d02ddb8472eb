-- What happened: messages sent, calls, and who said what in them. And forgetting it.

create table message_log (
  id bigint generated always as identity primary key,
  request_key text not null unique check (request_key <> ''),
  customer_id bigint references customers on delete set null,
  phone text not null,
  call_sid text,
  channel text not null,
  direction text not null,
  body text,
  provider_sid text unique,
  status text,
  error_code text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create index message_log_by_customer on message_log (customer_id, created_at desc);
create index message_log_by_number on message_log (phone_key(phone));
create index message_log_by_call on message_log (call_sid);

-- `recording` names the file or object it is in; null when there is none (any more).
create table calls (
  call_sid text primary key check (call_sid <> ''),
  trace_id text,
  customer_id bigint references customers on delete set null,
  caller text,
  called text,
  agent text,
  started_at timestamptz,
  ended_at timestamptz,
  end_reason text,
  attempts integer not null default 0,
  resumes integer not null default 0,
  timings jsonb not null default '{}',
  counts jsonb not null default '{}',
  recording text,
  stored_at timestamptz not null default now()
);

create index calls_by_customer on calls (customer_id, started_at desc);
create index calls_by_number on calls (phone_key(caller));
create index calls_by_time on calls (started_at desc);

-- `text` is what was meant to be said, `heard` what of it the caller heard when the agent was cut off.
create table call_turns (
  call_sid text not null references calls on delete cascade,
  position integer not null,
  at timestamptz,
  speaker text not null check (speaker in ('caller', 'agent', 'tool')),
  text text not null default '',
  heard text,
  cut_off boolean not null default false,
  tool jsonb,
  primary key (call_sid, position)
);

alter table message_log enable row level security;
alter table calls enable row level security;
alter table call_turns enable row level security;

revoke all on message_log, calls, call_turns from public, anon, authenticated;
grant select, insert, update, delete on message_log, calls, call_turns to service_role;

-- --- messages ----------------------------------------------------------------------------------------------------------

-- Reports of a provider may arrive in any order. Whether the second of two replaces the first: a later one does, a failure
-- as long as nothing proves that the message arrived; after a failure nothing does.
create function status_follows(p_before text, p_after text) returns boolean
language sql immutable parallel safe security invoker set search_path = public as $$
  select case
    when p_after is null then false
    when p_before in ('failed', 'undelivered', 'canceled') then false
    when p_after in ('failed', 'undelivered', 'canceled') then coalesce(p_before not in ('delivered', 'read'), true)
    else coalesce(array_position(array['accepted', 'scheduled', 'queued', 'sending', 'sent', 'delivered', 'read'], p_after), 0)
      >= coalesce(array_position(array['accepted', 'scheduled', 'queued', 'sending', 'sent', 'delivered', 'read'], p_before), 0)
  end
$$;

create function log_message(
  p_key text, p_phone text, p_call_sid text, p_channel text, p_direction text, p_body text,
  p_provider_sid text default null, p_status text default null, p_error_code text default null)
returns jsonb
language sql volatile security invoker set search_path = public as $$
  insert into message_log as m
    (request_key, customer_id, phone, call_sid, channel, direction, body, provider_sid, status, error_code)
    values (p_key, hold_customer(p_phone), p_phone, p_call_sid, p_channel, p_direction, p_body, p_provider_sid, p_status,
            p_error_code)
    on conflict (request_key) do update set
      provider_sid = coalesce(excluded.provider_sid, m.provider_sid),
      status = case when status_follows(m.status, excluded.status) then excluded.status else m.status end,
      error_code = coalesce(excluded.error_code, m.error_code),
      updated_at = now();
  select '{"outcome": "logged"}'::jsonb
$$;

create function message_status(p_provider_sid text, p_status text, p_error_code text default null) returns jsonb
language plpgsql security invoker set search_path = public as $$
begin
  update message_log set
    error_code = case when status_follows(status, p_status) then coalesce(p_error_code, error_code) else error_code end,
    status = case when status_follows(status, p_status) then p_status else status end,
    updated_at = now()
    where provider_sid = p_provider_sid;
  return jsonb_build_object('outcome', case when found then 'updated' else 'unknown_message' end);
end
$$;

create function message_of(p_key text) returns jsonb
language sql stable security invoker set search_path = public as $$
  select jsonb_build_object('provider_sid', provider_sid, 'status', status, 'error_code', error_code)
  from message_log where request_key = p_key
$$;

-- --- calls -------------------------------------------------------------------------------------------------------------

-- Stored again (a job that was run twice), a call replaces what was stored of it.
create function store_call(p_call jsonb, p_turns jsonb default null) returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  c calls := jsonb_populate_record(null::calls, p_call);
begin
  insert into calls (call_sid, trace_id, customer_id, caller, called, agent, started_at, ended_at, end_reason, attempts,
                     resumes, timings, counts, recording)
    values (c.call_sid, c.trace_id, hold_customer(c.caller), c.caller, c.called, c.agent, c.started_at, c.ended_at,
            c.end_reason, coalesce(c.attempts, 0), coalesce(c.resumes, 0), coalesce(c.timings, '{}'::jsonb),
            coalesce(c.counts, '{}'::jsonb), c.recording)
    on conflict (call_sid) do update set
      trace_id = excluded.trace_id, customer_id = excluded.customer_id, caller = excluded.caller, called = excluded.called,
      agent = excluded.agent, started_at = excluded.started_at, ended_at = excluded.ended_at,
      end_reason = excluded.end_reason, attempts = excluded.attempts, resumes = excluded.resumes,
      timings = excluded.timings, counts = excluded.counts, recording = excluded.recording, stored_at = now();
  delete from call_turns where call_sid = c.call_sid;
  insert into call_turns (call_sid, position, at, speaker, text, heard, cut_off, tool)
    select c.call_sid, t.position, t.at, t.speaker, coalesce(t.text, ''), t.heard, coalesce(t.cut_off, false), t.tool
    from jsonb_populate_recordset(null::call_turns, coalesce(nullif(p_turns, 'null'::jsonb), '[]'::jsonb)) t;
  return '{"outcome": "stored"}'::jsonb;
end
$$;

create function recording_deleted(p_call_sid text) returns jsonb
language plpgsql security invoker set search_path = public as $$
begin
  update calls set recording = null where call_sid = p_call_sid;
  return jsonb_build_object('outcome', case when found then 'updated' else 'unknown_call' end);
end
$$;

-- --- forgetting --------------------------------------------------------------------------------------------------------

-- The calls that `forget_caller` would delete, for those who delete what the database has not got (recordings) before it
-- forgets which there were: at most 200 at a time, those after a name (of the last one given before), none after the last.
create function calls_of_caller(p_phone text, p_after text default '') returns jsonb
language sql stable security invoker set search_path = public as $$
  select jsonb_build_object('calls', coalesce(
    jsonb_agg(jsonb_build_object('call_sid', c.call_sid, 'recording', c.recording) order by c.call_sid collate "C"), '[]'))
  from (
    select call_sid, recording from calls
    where (phone_key(caller) = phone_key(p_phone)
           or customer_id = (select id from customers where phone_key(phone) = phone_key(p_phone)))
      and call_sid collate "C" > coalesce(p_after, '')
    order by call_sid collate "C" limit 200
  ) c
$$;

-- Deletes what is known about a number, in one transaction: the customer with facts and appointments, the calls from it
-- (also without a customer) with their turns, the messages to it and those sent in its calls, and the outcomes of requests.
-- It gives counts alone: its answer may be lost, and it is small however much there was.
create function forget_caller(p_phone text) returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  number text := phone_key(p_phone);
  who bigint;
  sids text[];
  customers_gone bigint;
  facts_gone bigint;
  appointments_gone bigint;
  messages_gone bigint;
  turns_gone bigint;
begin
  select id into who from customers where phone_key(phone) = number for update;
  select coalesce(array_agg(c.call_sid), '{}') into sids
    from (select call_sid from calls where phone_key(caller) = number or customer_id = who order by call_sid for update) c;
  delete from call_turns where call_sid = any (sids);
  get diagnostics turns_gone = row_count;
  delete from calls where call_sid = any (sids);
  delete from message_log where phone_key(phone) = number or customer_id = who or call_sid = any (sids);
  get diagnostics messages_gone = row_count;
  delete from customer_facts where customer_id = who;
  get diagnostics facts_gone = row_count;
  delete from appointments where customer_id = who;
  get diagnostics appointments_gone = row_count;
  delete from tool_requests where phone = number or split_part(key, ':', 1) = any (sids);
  delete from customers where id = who;
  get diagnostics customers_gone = row_count;
  return jsonb_build_object(
    'customers', customers_gone, 'facts', facts_gone, 'appointments', appointments_gone, 'messages', messages_gone,
    'calls', cardinality(sids), 'turns', turns_gone);
end
$$;

revoke execute on function
  status_follows(text, text), log_message(text, text, text, text, text, text, text, text, text),
  message_status(text, text, text), message_of(text), store_call(jsonb, jsonb), recording_deleted(text),
  calls_of_caller(text, text), forget_caller(text)
  from public, anon, authenticated;
grant execute on function
  status_follows(text, text), log_message(text, text, text, text, text, text, text, text, text),
  message_status(text, text, text), message_of(text), store_call(jsonb, jsonb), recording_deleted(text),
  calls_of_caller(text, text), forget_caller(text)
  to service_role;
